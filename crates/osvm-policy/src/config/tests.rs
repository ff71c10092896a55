use super::*;

#[test]
fn smoke() {
    let env = Env::new(None, None, Some("/home/u".into())).unwrap();
    let config = Config::parse(default_text(), Path::new("c.json"), &env).unwrap();
    println!("{}", config.explain("solana", "x"));
    let bad = r#"{"mcp_servers":{"a":{"memroy_mb":1,"vcpus":4, "tools":{"x":{"execution_mode":"unikernal"}}}}}"#;
    println!("{}", Config::parse(bad, Path::new("c.json"), &env).unwrap_err());
}
