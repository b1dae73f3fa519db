//! `identity` of a route: where requests say which device sends them.

use super::route::Builder;
use crate::config::raw::{RawIdentity, RawRoute};
use crate::config::{CredentialConfig, IdentitySource};

impl Builder<'_, '_> {
    pub(super) fn identity(&mut self, raw: Option<&RawIdentity>) -> Option<IdentitySource> {
        let raw = raw?;
        let at = self.at("identity");
        let header = raw.header.as_ref().map(|name| {
            let name = self.context.field_name(&format!("{at}.header"), name);
            name.map(IdentitySource::Header)
        });
        if raw.query.as_ref().is_some_and(String::is_empty) {
            self.context.error(&format!("{at}.query"), "a query parameter needs a name", None);
        }
        let segment = raw.path_segment.and_then(|segment| usize::try_from(segment).ok());
        let mut found: Vec<Option<IdentitySource>> = [
            header,
            segment.map(|segment| Some(IdentitySource::PathSegment(segment.saturating_sub(1)))),
            raw.query.clone().map(|name| Some(IdentitySource::Query(name))),
            (raw.basic_user == Some(true)).then_some(Some(IdentitySource::BasicUser)),
            (raw.source_ip == Some(true)).then_some(Some(IdentitySource::SourceIp)),
            raw.client_certificate.map(|name| Some(IdentitySource::ClientCertificate(name))),
        ]
        .into_iter()
        .flatten()
        .collect();
        if found.len() != 1 {
            if !self.context.was_removed_below(&at) {
                let hint = Some(
                    "exactly one of header, path_segment, query, basic_user, source_ip and \
                     client_certificate",
                );
                self.context.error(&at, "it does not say who the caller is", hint);
            }
            return None;
        }
        found.pop().flatten()
    }

    /// A route knows who calls if one of its credentials asks, and only then.
    pub(super) fn identified(
        &mut self,
        raw: &RawRoute,
        identity: Option<&IdentitySource>,
        used: &[&CredentialConfig],
        complete: bool,
    ) {
        let with_devices = used.iter().find(|credential| credential.devices.is_some());
        let at = self.at("identity");
        match with_devices {
            Some(credential) if raw.identity.is_none() => {
                let hint = Some("identity = { header = \"X-Device\" } says who the caller is");
                let message = format!("the credential '{}' has devices", credential.name);
                if !self.context.was_removed_below(&at) {
                    let at = self.at("credential");
                    self.context.error(&at, message, hint);
                }
            }
            None if raw.identity.is_some() && complete => {
                let hint = Some("set 'devices' of the credential, or leave identity out");
                self.context.error(&at, "no credential of this route has devices", hint);
            }
            Some(_) | None => {}
        }
        if identity == Some(&IdentitySource::BasicUser)
            && raw.keep_caller_authorization == Some(true)
        {
            let at = self.at("keep_caller_authorization");
            let hint = Some("leave it out: what says who the caller is goes no further");
            self.context.error(&at, "Authorization says who the caller is", hint);
        }
    }
}
