//! Addresses to which no name leads: what answers there gives machines in a cloud their credentials.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Metadata services that are not link-local.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Of the addresses that `host` has, those that may be dialled: whoever controls a name must not
/// lead a credential, or a request, to the services on a machine's own link (RFC 3927, RFC 4291
/// §2.5.6). An address that is itself configured is meant.
pub(super) fn allowed(host: &str, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    if host.parse::<IpAddr>().is_ok() {
        return addresses;
    }
    addresses.into_iter().filter(|address| !is_prohibited(address.ip())).collect()
}

/// The IPv4 address in one of IPv6 that a translator (RFC 6052 §2.1) or an old system leads there.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else { return None };
    let [high @ .., a, b, c, d] = address.octets();
    let translated = high == [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
    let compatible = high == [0; 12] && a != 0;
    (translated || compatible).then(|| Ipv4Addr::new(a, b, c, d).into())
}

fn is_prohibited(address: IpAddr) -> bool {
    let address = embedded(address).unwrap_or(address.to_canonical());
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    link_local || METADATA.contains(&address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(host: &str, addresses: &[&str]) -> Vec<String> {
        let all = addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 80));
        allowed(host, all.collect()).iter().map(|address| address.ip().to_string()).collect()
    }

    #[test]
    fn no_name_leads_to_the_services_of_a_link() {
        for prohibited in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "64:ff9b::a9fe:a9fe",
            "::169.254.169.254",
        ] {
            assert_eq!(left("api.example.com", &[prohibited, "192.0.2.1"]), ["192.0.2.1"]);
            assert!(left("api.example.com", &[prohibited]).is_empty(), "{prohibited}");
            assert_eq!(left(prohibited, &[prohibited]).len(), 1, "{prohibited} is configured");
        }
    }

    #[test]
    fn every_other_address_may_be_dialled() {
        let others = ["127.0.0.1", "10.0.0.1", "169.253.255.255", "::1", "fd00::1", "2001:db8::1"];
        assert_eq!(left("api.example.com", &others), others);
    }
}
