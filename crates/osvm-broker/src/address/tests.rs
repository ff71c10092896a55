//! Addresses of every registry entry, and those just beside them.

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
    for address in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0"] {
        assert!(never(address.parse().unwrap()), "{address}");
    }
    assert!(!never("127.0.0.1".parse().unwrap()));
}
