//! Ways around the rules, none of which leads anywhere.

use super::{rule, url};
use crate::NoSecrets;
use crate::fixture::{
    Guest, Names, Tls, broker, new_broker, plain_broker, policy, redirect, response, serve,
};
use osvm_protocol::code;
use osvm_runtime::Reach;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[test]
fn what_no_rule_allows_is_not_even_resolved() {
    let names = Names::new(&[("a.test", &["127.0.0.2"])]);
    let broker = new_broker(Arc::new(NoSecrets)).in_test(names.clone(), None);
    let guest = Guest::new(&broker, policy(r#"[{"host": "a.test", "paths": ["/v1/*"]}]"#));
    for (method, url) in [
        ("GET", "https://evil.test/"),
        ("GET", "https://a.test/admin"),
        ("GET", "https://a.test/v1/..%2fadmin"),
        ("GET", "https://a.test:8443/v1/"),
        ("POST", "https://a.test/v1/"),
        ("GET", "https://127.0.0.2/v1/"),
    ] {
        let error = guest.http(json!({"method": method, "url": url})).unwrap_err();
        assert_eq!(error.code, code::EGRESS_DENIED, "{url}: {error}");
        let [Reach::Http { refused: Some(why), .. }] = &guest.noted()[..] else { panic!("{url}") };
        assert_eq!(*why, error.message);
    }
    assert_eq!(names.asked.lock().unwrap().len(), 0);
}

#[test]
fn a_name_does_not_lead_into_the_users_network() {
    let addresses = [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "0.0.0.0",
        "::1",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "64:ff9b::a00:1",
    ];
    for address in addresses {
        let names = Names::new(&[("a.test", &[address])]);
        let broker = new_broker(Arc::new(NoSecrets)).in_test(names, None);
        // Not even where another rule lists the address.
        let rules = format!(r#"[{{"host": "a.test"}}, {{"host": "{address}"}}]"#);
        let guest = Guest::new(&broker, policy(&rules));
        let error = guest.http(json!({"url": "https://a.test/"})).unwrap_err();
        assert_eq!(error.code, code::EGRESS_DENIED, "{address}: {error}");
        assert!(error.message.contains("out of reach"), "{error}");
    }
}

#[test]
fn a_private_address_is_reached_where_a_rule_lists_it() {
    let server = serve(None, |_| response(200, "ok"));
    let broker = plain_broker();
    let port = server.port;
    let rules = format!(r#"[{{"host": "127.0.0.3", "ports": [{port}]}}]"#);
    let guest = Guest::new(&broker, policy(&rules));
    for host in ["127.0.0.3", "[::ffff:7f00:3]", "0x7f000003"] {
        let answer = guest.http(json!({"url": format!("http://{host}:{port}/")})).unwrap();
        assert_eq!(answer["body"], "ok");
    }
    guest.refused(json!({"url": format!("http://127.0.0.1:{port}/")}));
}

#[test]
fn a_name_means_the_same_during_the_whole_call() {
    let server = serve(None, |_| {
        let mut answer = response(200, "ok");
        answer.headers_mut().insert("connection", "close".parse().unwrap());
        answer
    });
    let names = Names::new(&[("a.test", &["127.0.0.2", "127.0.0.1"])]);
    let broker = new_broker(Arc::new(NoSecrets)).in_test(names.clone(), None);
    let guest = Guest::new(&broker, policy(&rule(server.port)));
    for _ in 0..3 {
        guest.http(json!({"url": url(server.port, "/")})).unwrap();
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 3);
    assert_eq!(names.asked.lock().unwrap().len(), 1);
    // Another call asks anew, and finds what it must not reach.
    let guest = Guest::new(&broker, policy(&rule(server.port)));
    assert!(guest.refused(json!({"url": url(server.port, "/")})).contains("a loopback address"));
}

#[test]
fn a_redirect_is_a_request_like_any_other() {
    let server = serve(None, |request| match request.uri().path() {
        "/far" => redirect(302, "http://evil.test/"),
        "/metadata" => redirect(302, "http://169.254.169.254/latest/"),
        "/file" => redirect(302, "file:///etc/passwd"),
        "/path" => redirect(302, "/hidden"),
        "/loop" => redirect(302, "/loop"),
        "/post" => redirect(303, "/end"),
        "/same" => redirect(307, "/end"),
        path => response(200, format!("{} {path} {:?}", request.method(), request.body())),
    });
    let broker = plain_broker();
    let paths = r#"["/far", "/metadata", "/file", "/path", "/loop", "/post", "/same", "/end"]"#;
    let guest = Guest::new(&broker, policy(&rule(server.port).replace(r#"["/*"]"#, paths)));
    let at = |path| json!({"url": url(server.port, path), "method": "POST", "body": "b"});
    for (path, why) in [
        ("/far", "no egress rule allows GET `evil.test:80/`"),
        ("/metadata", "no egress rule allows GET `169.254.169.254:80/latest/`"),
        ("/file", "no plain http or https URL"),
        ("/path", "/hidden`"),
        ("/loop", "there were too many"),
    ] {
        let refused = guest.refused(at(path));
        assert!(refused.contains(why), "{path}: {refused}");
    }
    guest.noted();
    assert_eq!(guest.http(at("/post")).unwrap()["body"], "GET /end b\"\"");
    assert_eq!(guest.http(at("/same")).unwrap()["body"], "POST /end b\"b\"");
    let status = |reach: &Reach| match reach {
        Reach::Http { status, .. } => status.unwrap(),
        Reach::File { .. } | Reach::Other { .. } => 0,
    };
    let statuses: Vec<_> = guest.noted().iter().map(status).collect();
    assert_eq!(statuses, [303, 200, 307, 200]);
    let mut unfollowed = at("/far");
    unfollowed["max_redirects"] = json!(0);
    let answer = guest.http(unfollowed).unwrap();
    assert_eq!(
        (answer["status"].as_u64(), &answer["headers"]["location"]),
        (Some(302), &json!("http://evil.test/"))
    );
}

#[test]
fn credentials_stay_with_the_host_they_were_for() {
    let server = serve(None, |request| match request.uri().path() {
        "/away" => {
            let port = request.headers()["host"].to_str().unwrap().rsplit(':').next().unwrap();
            redirect(302, &format!("http://b.test:{port}/"))
        }
        _ => {
            let mut names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
            names.sort_unstable();
            response(200, names.join(","))
        }
    });
    let broker = plain_broker();
    let rules = rule(server.port);
    let both = format!(
        "[{},{}]",
        &rules[1..rules.len() - 1],
        rules[1..rules.len() - 1].replace("a.test", "b.test")
    );
    let guest = Guest::new(&broker, policy(&both));
    let headers = json!({"Authorization": "x", "Cookie": "x", "X-Api-Key": "x", "Accept": "*/*"});
    let answer = guest.http(json!({"url": url(server.port, "/away"), "headers": headers})).unwrap();
    assert_eq!(answer["body"], "accept,host,user-agent");
}

#[test]
fn a_server_shows_a_certificate_for_its_name_from_a_known_root() {
    let (good, other) = (Tls::new(&["a.test"]), Tls::new(&["c.test"]));
    let server = serve(Some(&good), |request| match request.uri().path() {
        "/down" => redirect(302, "http://a.test/"),
        _ => response(200, "ok"),
    });
    let wrong = serve(Some(&other), |_| response(200, "ok"));
    let at = |port, path: &str| json!({"url": format!("https://a.test:{port}{path}")});
    let rules = |port| policy(&rule(port));

    let known = broker(Arc::new(NoSecrets), Some(good.roots.clone()));
    let guest = Guest::new(&known, rules(server.port));
    assert_eq!(guest.http(at(server.port, "/")).unwrap()["body"], "ok");
    assert_eq!(*server.sni.lock().unwrap(), ["a.test"]);
    assert!(guest.refused(at(server.port, "/down")).contains("from https to http"));

    let unknown = plain_broker();
    let guest = Guest::new(&unknown, rules(server.port));
    assert!(guest.refused(at(server.port, "/")).contains("TLS"));
    let for_another = broker(Arc::new(NoSecrets), Some(other.roots.clone()));
    let guest = Guest::new(&for_another, rules(wrong.port));
    assert!(guest.refused(at(wrong.port, "/")).contains("TLS"));
}

#[test]
fn what_is_no_http_request_is_refused() {
    let broker = plain_broker();
    let guest = Guest::new(&broker, policy(r#"[{"host": "a.test", "ports": [80, 443]}]"#));
    for url in
        ["ftp://a.test/", "file:///x", "https://u:p@a.test/", "https://a.test\\@b/", "ws://a.test"]
    {
        assert_eq!(
            guest.http(json!({"url": url})).unwrap_err().code,
            code::INVALID_PARAMS,
            "{url}"
        );
    }
    for method in ["CONNECT", "TRACE", "get"] {
        let params = json!({"url": "https://a.test/", "method": method});
        assert_eq!(guest.http(params).unwrap_err().code, code::INVALID_PARAMS, "{method}");
    }
    assert!(guest.refused(json!({"url": "http://a.test:443/"})).contains("https"));
}
