//! Who a caller's certificate says that it is.

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The names in a certificate that was verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerNames {
    /// The common name of the subject, as it is written; `None` where there are alternative names,
    /// which then are what the authority vouches for (RFC 9525 §2).
    pub common_name: Option<String>,
    /// The alternative names: DNS names in lower case, URIs and e-mail addresses as they are written
    /// (RFC 5280 §4.2.1.6).
    pub alternative: Vec<String>,
}

impl PeerNames {
    /// The names in `certificate`; none where it cannot be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Certificate::from_der(certificate)
            .map_or_else(|_| Self::default(), |read| Self::read(&read))
    }

    fn read(certificate: &Certificate) -> Self {
        let certificate = certificate.tbs_certificate();
        let common_name = certificate.subject().common_name().ok().flatten();
        let alternative = certificate.get_extension::<SubjectAltName>().ok().flatten();
        let names = alternative.into_iter().flat_map(|(_critical, names)| names.0);
        let alternative: Vec<String> = names.filter_map(|name| text(&name)).collect();
        let common_name = common_name.filter(|_| alternative.is_empty());
        Self { common_name: common_name.map(|name| name.value().into_owned()), alternative }
    }

    /// True if `name` is one of them. DNS names are compared without regard to case.
    pub fn include(&self, name: &str) -> bool {
        let plain = |own: &str| !own.contains([':', '@', ' ']);
        self.common_name.as_deref() == Some(name)
            || self
                .alternative
                .iter()
                .any(|own| own == name || (plain(own) && own.eq_ignore_ascii_case(name)))
    }

    /// The name by which to call it.
    pub fn first(&self) -> Option<&str> {
        self.common_name.iter().chain(&self.alternative).map(String::as_str).next()
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the others are no texts")]
fn text(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
        GeneralName::UniformResourceIdentifier(name) | GeneralName::Rfc822Name(name) => {
            Some(name.as_str().to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn names(common_name: Option<&str>, alternative: Vec<SanType>) -> PeerNames {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names = alternative;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        PeerNames::of(certificate.der())
    }

    #[test]
    fn common_name_and_alternative_names_are_read() {
        let alternative = vec![
            SanType::DnsName("Gateway.Plant.test".try_into().unwrap()),
            SanType::URI("spiffe://plant.test/gateway".try_into().unwrap()),
            SanType::Rfc822Name("gateway@plant.test".try_into().unwrap()),
            SanType::IpAddress([192, 0, 2, 1].into()),
        ];
        let common = names(Some("Gateway 01 – Süd"), Vec::new());
        assert_eq!(common.first(), Some("Gateway 01 – Süd"));
        assert!(common.include("Gateway 01 – Süd"));
        let names = names(Some("Gateway 01 – Süd"), alternative);
        assert_eq!(names.first(), Some("gateway.plant.test"), "nobody vouches for the other");
        assert_eq!(
            names.alternative,
            ["gateway.plant.test", "spiffe://plant.test/gateway", "gateway@plant.test"]
        );
        assert!(names.include("Gateway.plant.test"));
        assert!(!names.include("SPIFFE://plant.test/gateway"));
        assert!(names.include("gateway.plant.test") && !names.include("Gateway 01 – Süd"));
        assert!(!names.include("plant.test") && !names.include(""));
    }

    #[test]
    fn a_certificate_without_names_and_what_is_no_certificate_name_nobody() {
        for nobody in [names(None, Vec::new()), PeerNames::of(&CertificateDer::from(vec![1, 2]))] {
            assert_eq!(nobody, PeerNames::default());
            assert_eq!(nobody.first(), None);
            assert!(!nobody.include(""));
        }
    }
}
