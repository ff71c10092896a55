//! A server made with the official SDK, in both eras, over a pipe.

use crate::support::{Ask, Notes, Scripted, soon};
use osvm_upstream::Era;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::{ServerHandler, ServiceExt, tool, tool_handler, tool_router};
use serde_json::json;

#[derive(Clone)]
struct Adder;

#[derive(serde::Deserialize, rmcp::schemars::JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Numbers {
    a: i64,
    b: i64,
}

#[tool_router]
impl Adder {
    #[tool(description = "Adds")]
    fn add(&self, Parameters(Numbers { a, b }): Parameters<Numbers>) -> String {
        (a + b).to_string()
    }
}

#[tool_handler]
impl ServerHandler for Adder {}

fn adder() -> Scripted {
    Scripted::new(|_, wire| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            wire.write.set_nonblocking(true).unwrap();
            let stream = tokio::net::UnixStream::from_std(wire.write).unwrap();
            if let Ok(running) = Adder.serve(stream).await {
                running.waiting().await.unwrap();
            }
        });
    })
}

#[test]
fn it_is_listed_and_called_in_both_eras() {
    let script = adder();
    let server = script.server();
    let offer = server.refresh(soon()).unwrap();
    assert_eq!((offer.era, offer.dual), (Era::Modern, true));
    assert!(offer.tools[0].get().contains(r#""name":"add""#));
    for era in [Era::Modern, Era::Legacy, Era::Modern] {
        let params = Some(json!({"name": "add", "arguments": {"a": 40, "b": 2}}));
        let asked = Ask { params, era: Some(era), ..Ask::new("tools/call") };
        let answer = asked.of(&server, &Notes::default()).unwrap();
        assert_eq!(answer["content"][0]["text"], "42", "{era:?}: {answer}");
        assert_eq!(answer.get("resultType").is_some(), era == Era::Modern);
    }
    assert_eq!(script.starts(), 2);
}
