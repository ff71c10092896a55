//! The file that says what to start: read once, checked, and gone from the guest afterwards.

use crate::Error;
use osvm_protocol::PROTOCOL_VERSION;
use osvm_protocol::linux::{ORDERS, Orders};
use std::fs;

/// Longest file that is read, in bytes.
const MAX: u64 = 256 * 1024;

/// Reads the orders from the initial RAM disk and removes them: they may hold what only the server
/// is to know.
pub(crate) fn read() -> Result<Orders, Error> {
    let path = format!("/{ORDERS}");
    let during = || format!("read `{path}`");
    let len = fs::metadata(&path).map_err(Error::during(during()))?.len();
    if MAX < len {
        return Err(Error::new(during(), format_args!("it has {len} bytes, over {MAX}")));
    }
    let text = fs::read(&path).map_err(Error::during(during()))?;
    fs::remove_file(&path).map_err(Error::during(format!("remove `{path}`")))?;
    parse(&text).map_err(Error::during(during()))
}

fn parse(text: &[u8]) -> Result<Orders, String> {
    let orders: Orders = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if orders.protocol != PROTOCOL_VERSION {
        return Err(format!("protocol {}, not {PROTOCOL_VERSION}", orders.protocol));
    }
    if orders.uid == 0 {
        return Err("the server may not be root".into());
    }
    if orders.places.iter().any(|place| !place.path.starts_with('/')) {
        return Err("a place for files has no absolute path".into());
    }
    Ok(orders)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"protocol":1,"channel":"virtio-serial","command":"/bin/x","cwd":"/",
        "uid":1000,"writable_mib":16,"max_processes":64}"#;

    #[test]
    fn what_is_left_out_has_a_harmless_value() {
        let orders = parse(GOOD.as_bytes()).unwrap();
        assert_eq!((orders.args.len(), orders.env.len(), orders.hooks), (0, 0, false));
    }

    #[test]
    fn a_server_that_would_be_root_is_refused() {
        let text = GOOD.replace("1000", "0");
        assert_eq!(parse(text.as_bytes()).unwrap_err(), "the server may not be root");
    }

    #[test]
    fn another_protocol_is_refused() {
        let text = GOOD.replace("\"protocol\":1", "\"protocol\":2");
        assert_eq!(parse(text.as_bytes()).unwrap_err(), "protocol 2, not 1");
    }
}
