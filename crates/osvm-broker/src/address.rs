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
mod tests;
