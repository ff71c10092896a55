//! Which addresses are out there, and which are the user's own network.
//!
//! Everything that is not known to be public is refused, so a range that is assigned tomorrow is
//! private until somebody decides otherwise. The ranges are those of the IANA special-purpose
//! address registries for IPv4 and IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Says what kind of address this is if it is not a public one.
pub(crate) fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => not_public_v4(address),
        IpAddr::V6(address) => not_public_v6(address),
    }
}

/// Whether nothing can listen at the address, whoever lists it in a rule.
pub(crate) fn never(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_unspecified()
        || address.is_multicast()
        || matches!(address, IpAddr::V4(v4) if v4.is_broadcast())
}

fn not_public_v4(address: Ipv4Addr) -> Option<&'static str> {
    let kind = match address.octets() {
        // The host agents of clouds: AWS and most others, Azure, Alibaba, Oracle.
        [169, 254, 169, 254] | [168, 63, 129, 16] | [100, 100, 100, 200] | [192, 0, 0, 192] => {
            "a cloud's metadata service"
        }
        [0, ..] => "an address of this host (RFC 6890)",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "a private address (RFC 1918)",
        [100, 64..=127, ..] => "a carrier's private address (RFC 6598)",
        [127, ..] => "a loopback address",
        [169, 254, ..] => "a link-local address (RFC 3927)",
        [192, 0, 0, _] => "a protocol's own address (RFC 6890)",
        [192, 88, 99, _] => "a 6to4 relay (RFC 7526)",
        [198, 18..=19, ..] => "a benchmarking address (RFC 2544)",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => {
            "a documentation address (RFC 5737)"
        }
        [224..=239, ..] => "a multicast address",
        [240..=255, ..] => "a reserved address (RFC 1112)",
        _ => return None,
    };
    Some(kind)
}

fn not_public_v6(address: Ipv6Addr) -> Option<&'static str> {
    const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    let kind = match address.segments() {
        _ if address == METADATA => "a cloud's metadata service",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_unspecified() => "an address of this host (RFC 6890)",
        [0, 0, 0, 0, 0, 0xffff, ..] => "an IPv4 address in IPv6 form",
        // NAT64 leads to whatever IPv4 address stands behind the prefix.
        [0x64, 0xff9b, ..] => "a NAT64 address (RFC 6052, RFC 8215)",
        [0xfc00..=0xfdff, ..] => "a private address (RFC 4193)",
        [0xfe80..=0xfebf, ..] => "a link-local address (RFC 4291)",
        [0xff00..=0xffff, ..] => "a multicast address",
        // Teredo and others that carry another address inside.
        [0x2001, 0..=0x1ff, ..] => "a protocol's own address (RFC 2928)",
        [0x2002, ..] => "a 6to4 address (RFC 3056)",
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => "a documentation address (RFC 3849)",
        [0x2000..=0x3fff, ..] => return None,
        _ => "not a global address (RFC 4291)",
    };
    Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(address: &str) -> Option<&'static str> {
        not_public(address.parse().unwrap())
    }

    #[test]
    fn public_addresses_are_public() {
        for address in ["1.1.1.1", "8.8.8.8", "172.15.0.1", "172.32.0.1", "100.128.0.1"] {
            assert_eq!(kind(address), None, "{address}");
        }
        for address in ["2606:4700::1111", "2a00:1450::1", "2001:200::1", "3ffe::1"] {
            assert_eq!(kind(address), None, "{address}");
        }
    }

    #[test]
    fn the_users_own_network_is_not() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.1.2.3",
            "169.254.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(kind(address).is_some(), "{address}");
        }
        for address in [
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(kind(address).is_some(), "{address}");
        }
    }

    #[test]
    fn metadata_services_are_called_by_their_name() {
        for address in ["169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254"] {
            assert_eq!(kind(address), Some("a cloud's metadata service"), "{address}");
        }
    }

    #[test]
    fn nobody_listens_at_a_group_or_at_nothing() {
        for address in
            ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0"]
        {
            assert!(never(address.parse().unwrap()), "{address}");
        }
        assert!(!never("127.0.0.1".parse().unwrap()));
    }
}
