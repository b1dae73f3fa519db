//! What went wrong with TLS, in words for whoever has to mend it. Nothing that the other side wrote
//! is repeated: a certificate may hold anything.

#![expect(clippy::wildcard_enum_match_arm, reason = "kinds of failures, of which a few have words")]

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::DialError;

impl DialError {
    /// Why a handshake did not come to its end.
    pub(super) fn from_handshake(error: &io::Error) -> Self {
        Self::from_tls(error).unwrap_or_else(|| Self::Handshake(broken(error.kind())))
    }

    /// What TLS has to do with `error`; `None` if it is one of the connection below.
    pub fn from_tls(error: &io::Error) -> Option<Self> {
        cause(error).map(|cause| match cause {
            Error::InvalidCertificate(reason) => Self::Certificate(certificate(reason)),
            other => Self::Handshake(handshake(other)),
        })
    }

    /// The refusal of our own certificate, if `error` of an established connection is one. In
    /// TLS 1.3 our side of the handshake has ended before the other side says what it thinks of us.
    pub(super) fn from_late_refusal(error: &io::Error) -> Option<Self> {
        match cause(error) {
            Some(Error::AlertReceived(alert)) => {
                refusal(*alert).map(|why| Self::Handshake(why.to_owned()))
            }
            _ => None,
        }
    }
}

fn cause(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn certificate(reason: &CertificateError) -> String {
    use CertificateError as C;
    let words = match reason {
        C::Expired | C::ExpiredContext { .. } => "it has expired",
        C::NotValidYet | C::NotValidYetContext { .. } => "it is not valid yet",
        C::NotValidForName | C::NotValidForNameContext { .. } => "it is for another name",
        C::UnknownIssuer => "its issuer is not trusted",
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => "it is not for servers",
        C::Revoked => "it was revoked",
        C::BadSignature => "its signature is not that of the authority that it names",
        C::BadEncoding => "it cannot be read",
        C::UnhandledCriticalExtension => "it has a critical extension that is not known here",
        // Self-made certificates that were marked as those of an authority.
        C::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "it is an authority's and not a server's"
        }
        other => return format!("it breaks the rules ({})", variant(other)),
    };
    words.to_owned()
}

fn handshake(error: &Error) -> String {
    let words = match error {
        Error::AlertReceived(alert) => match alert {
            AlertDescription::ProtocolVersion => "it has no version of TLS in common with us",
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
                "it agrees to nothing that we offer, or wants a client certificate"
            }
            AlertDescription::UnrecognisedName => "it does not know the name that it was asked for",
            other => match refusal(*other) {
                Some(why) => why,
                None => return format!("it broke off with the alert {other:?}"),
            },
        },
        Error::PeerIncompatible(_) => "it has no version or cipher of TLS in common with us",
        Error::InvalidMessage(_) => "what it speaks is not TLS",
        Error::NoApplicationProtocol => "it speaks no version of HTTP that was offered",
        other => return format!("it breaks the rules ({})", variant(other)),
    };
    words.to_owned()
}

/// What an alert says about our own certificate.
fn refusal(alert: AlertDescription) -> Option<&'static str> {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired | A::NoCertificate => Some("it demands a client certificate"),
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateRevoked
        | A::CertificateExpired
        | A::CertificateUnknown
        | A::UnknownCA
        | A::AccessDenied
        // Its signature could not be verified.
        | A::DecryptError => Some("it does not accept our client certificate"),
        _ => None,
    }
}

fn broken(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        kind => kind.to_string(),
    }
}

/// The name of a variant, without what it holds.
fn variant(error: &impl std::fmt::Debug) -> String {
    let mut text = format!("{error:?}");
    let end = text.find(|letter: char| !letter.is_alphanumeric()).unwrap_or(text.len());
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{InvalidMessage, OtherError};
    use std::sync::Arc;

    fn failed(error: Error) -> DialError {
        DialError::from_handshake(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn nothing_that_a_certificate_holds_is_repeated() {
        let presented = vec!["canary.example".to_owned()];
        let expected = "localhost".try_into().unwrap();
        let reason = CertificateError::NotValidForNameContext { expected, presented };
        let text = failed(Error::InvalidCertificate(reason)).to_string();
        assert_eq!(text, "its certificate is not accepted: it is for another name");

        let other = OtherError(Arc::new(io::Error::other("canary")));
        let text = failed(Error::InvalidCertificate(CertificateError::Other(other))).to_string();
        assert_eq!(text, "its certificate is not accepted: it breaks the rules (Other)");
        let text = failed(Error::General("canary".to_owned())).to_string();
        assert_eq!(text, "the TLS handshake failed: it breaks the rules (General)");
    }

    #[test]
    fn only_what_is_said_about_our_certificate_counts_as_a_late_refusal() {
        let late = |error| {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            DialError::from_late_refusal(&error).map(|error| error.to_string())
        };
        assert_eq!(
            late(Error::AlertReceived(AlertDescription::CertificateRequired)).as_deref(),
            Some("the TLS handshake failed: it demands a client certificate")
        );
        assert_eq!(late(Error::AlertReceived(AlertDescription::InternalError)), None);
        assert_eq!(late(Error::InvalidMessage(InvalidMessage::InvalidContentType)), None);
        assert_eq!(DialError::from_late_refusal(&io::ErrorKind::UnexpectedEof.into()), None);
    }
}
