//! Which device a caller is, and where its credential is read.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Uri};
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::guard::Ends;
use super::respond::ProxyError;
use crate::clock::Now;
use crate::config::{CertificateName, IdentitySource};
use crate::credential::cache::{CacheState, CredentialCache, Issued, Rejection};
use crate::credential::devices::pool::{DevicePool, NoCredential};
use crate::credential::record::Record;
use crate::sign::Signer;

/// Where a credential is read: one for all callers, or one for each device.
#[derive(Debug, Clone)]
pub enum Cache {
    /// One.
    One(CredentialCache<Signer>),
    /// One for each.
    Devices(DevicePool<Signer>),
}

impl Cache {
    /// The current credential, of `device` where each has its own; if none is usable, waits for the
    /// attempt in flight.
    ///
    /// # Errors
    /// With the answer to give.
    pub async fn get_at(
        &self,
        device: Option<&str>,
        now: Now,
    ) -> Result<Arc<Issued<Signer>>, ProxyError> {
        match self {
            Self::One(cache) => cache.get_at(now).await.map_err(ProxyError::Credential),
            Self::Devices(pool) => {
                let device = device.ok_or(ProxyError::DeviceMissing)?;
                pool.get_at(device, now).await.map_err(|error| match error {
                    NoCredential::Unknown => ProxyError::Device,
                    NoCredential::Unavailable(unavailable) => ProxyError::Credential(unavailable),
                })
            }
        }
    }

    /// The current credential without waiting, usable or not. Nothing is fetched for it.
    pub fn peek(&self, device: Option<&str>) -> Option<Arc<Issued<Signer>>> {
        match self {
            Self::One(cache) => cache.peek(),
            Self::Devices(pool) => pool.peek(device?),
        }
    }

    /// The upstream refused `refused`. Asks for another unless it was already replaced.
    pub fn reject(&self, device: Option<&str>, refused: &Arc<Issued<Signer>>) -> Rejection {
        match self {
            Self::One(cache) => cache.reject(refused),
            Self::Devices(pool) => {
                device.map_or(Rejection::Fixed, |device| pool.reject(device, refused))
            }
        }
    }

    /// False if there is no such device.
    pub fn knows(&self, device: &str) -> bool {
        match self {
            Self::One(_) => true,
            Self::Devices(pool) => pool.knows(device),
        }
    }

    /// Waits until there is no such device any more.
    pub async fn until_unknown(&self, device: &str) {
        match self {
            Self::One(_) => std::future::pending().await,
            Self::Devices(pool) => pool.until_unknown(device).await,
        }
    }

    /// True if a usable credential is there. Those of devices are fetched when they are needed.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::One(cache) => cache.is_ready(),
            Self::Devices(_) => true,
        }
    }

    /// The state, for people. That of devices is told by [`DevicePool::census`].
    pub fn state(&self) -> CacheState {
        match self {
            Self::One(cache) => cache.state(),
            Self::Devices(_) => CacheState {
                expires: None,
                lifetime: None,
                usable: true,
                renewing: false,
                failure: None,
            },
        }
    }

    /// What has become of attempts to fetch it.
    pub fn record(&self) -> &Arc<Record> {
        match self {
            Self::One(cache) => cache.record(),
            Self::Devices(pool) => pool.record(),
        }
    }

    /// The credentials of the devices, if each has its own.
    pub fn devices(&self) -> Option<&DevicePool<Signer>> {
        match self {
            Self::One(_) => None,
            Self::Devices(pool) => Some(pool),
        }
    }
}

/// Which device sent the request, as `source` says, and takes out of its head what said so.
///
/// `prefix_len` is the length of the route's prefix; `is_known` decides between several names in a
/// certificate.
///
/// # Errors
/// With the answer to give.
pub fn identify(
    source: &IdentitySource,
    head: &mut Parts,
    prefix_len: usize,
    ends: &Ends,
    is_known: impl Fn(&str) -> bool,
) -> Result<Arc<str>, ProxyError> {
    let device: Arc<str> = match source {
        IdentitySource::Header(name) => of_field(&mut head.headers, name)?,
        IdentitySource::PathSegment(number) => of_path(&mut head.uri, prefix_len, *number)?,
        IdentitySource::Query(name) => of_query(&mut head.uri, name)?,
        IdentitySource::BasicUser => of_basic(&mut head.headers)?,
        IdentitySource::SourceIp => {
            let peer = ends.peer.ok_or(ProxyError::DeviceMissing)?;
            peer.to_canonical().to_string().into()
        }
        IdentitySource::ClientCertificate(which) => {
            let names = ends.client.as_deref().ok_or(ProxyError::DeviceMissing)?;
            match which {
                CertificateName::Cn => {
                    names.common_name.as_deref().ok_or(ProxyError::DeviceMissing)?.into()
                }
                CertificateName::San if names.alternative.is_empty() => {
                    return Err(ProxyError::DeviceMissing);
                }
                CertificateName::San => {
                    let known = names.alternative.iter().find(|name| is_known(name));
                    known.map(String::as_str).ok_or(ProxyError::Device)?.into()
                }
            }
        }
    };
    if device.is_empty() {
        return Err(ProxyError::DeviceMissing);
    }
    if is_known(&device) { Ok(device) } else { Err(ProxyError::Device) }
}

fn of_field(headers: &mut HeaderMap, name: &HeaderName) -> Result<Arc<str>, ProxyError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(ProxyError::DeviceMissing)?;
    if values.next().is_some() {
        return Err(ProxyError::Malformed("the field that names the device is there twice"));
    }
    let text = std::str::from_utf8(value.as_bytes());
    let device = text.map_err(|_| ProxyError::Malformed("the device is not UTF-8 text"))?.into();
    headers.remove(name);
    Ok(device)
}

fn of_basic(headers: &mut HeaderMap) -> Result<Arc<str>, ProxyError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(ProxyError::DeviceMissing)?;
    if values.next().is_some() {
        return Err(ProxyError::Malformed("Authorization is there twice"));
    }
    let (scheme, pair) = value.as_bytes().split_at_checked(6).ok_or(ProxyError::DeviceMissing)?;
    // RFC 9110 §11.1: the scheme's case makes no difference.
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return Err(ProxyError::DeviceMissing);
    }
    let wrong = ProxyError::Malformed("Authorization is not what RFC 7617 says");
    let pair = STANDARD.decode(pair.trim_ascii()).map(Zeroizing::new).map_err(|_| wrong.clone())?;
    let pair = std::str::from_utf8(&pair).map_err(|_| wrong.clone())?;
    let (user, _) = pair.split_once(':').ok_or(wrong)?;
    let user = user.into();
    headers.remove(AUTHORIZATION);
    Ok(user)
}

fn of_path(uri: &mut Uri, prefix_len: usize, number: usize) -> Result<Arc<str>, ProxyError> {
    let path = uri.path();
    let rest = path.get(prefix_len..).unwrap_or_default();
    let mut slashes = rest.match_indices('/').map(|(at, _)| at);
    let begin = slashes.nth(number).ok_or(ProxyError::DeviceMissing)?;
    let end = slashes.next().unwrap_or(rest.len());
    let device = decoded(rest.get(begin + 1..end).unwrap_or_default())?;
    let before = path.get(..prefix_len + begin).unwrap_or_default();
    let after = rest.get(end..).unwrap_or_default();
    let path = if before.is_empty() && after.is_empty() { "/" } else { "" };
    let (mark, query) = uri.query().map_or(("", ""), |query| ("?", query));
    replace(uri, format!("{before}{after}{path}{mark}{query}"))?;
    Ok(device)
}

fn of_query(uri: &mut Uri, name: &str) -> Result<Arc<str>, ProxyError> {
    let mut device = None;
    let mut target = uri.path().to_owned();
    let mut separator = '?';
    let query = uri.query().filter(|query| !query.is_empty());
    for pair in query.into_iter().flat_map(|query| query.split('&')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decoded(&key.replace('+', " ")).is_ok_and(|key| *key == *name) {
            let value = decoded(&value.replace('+', " "))?;
            if device.replace(value).is_some() {
                return Err(ProxyError::Malformed("the parameter of the device is there twice"));
            }
            continue;
        }
        target.push(separator);
        target.push_str(pair);
        separator = '&';
    }
    let device = device.ok_or(ProxyError::DeviceMissing)?;
    replace(uri, target)?;
    Ok(device)
}

fn decoded(text: &str) -> Result<Arc<str>, ProxyError> {
    let text = percent_decode_str(text).decode_utf8();
    Ok(text.map_err(|_| ProxyError::Malformed("the device is not UTF-8 text"))?.as_ref().into())
}

fn replace(uri: &mut Uri, target: String) -> Result<(), ProxyError> {
    let target = PathAndQuery::from_maybe_shared(bytes::Bytes::from(target));
    *uri = target.map_err(|_| ProxyError::Malformed("the target cannot be forwarded"))?.into();
    Ok(())
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
