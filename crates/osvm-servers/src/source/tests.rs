//! What can be typed for a server, and what can't.

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const OTHER: &str = "ffffffffffffffffffffffffffffffffffffffff";

#[test]
fn packages_become_the_programs_that_fetch_them() {
    check_command("npx://@scope/name@1.2.3", &["npx", "-y", "@scope/name@1.2.3"]);
    check_command("npx://name", &["npx", "-y", "name"]);
    check_command("uvx://mcp-server-time==2025.9.25", &["uvx", "mcp-server-time@2025.9.25"]);
    check_command("uvx://name[extra]", &["uvx", "name[extra]"]);
}

#[test]
fn names_that_a_program_would_take_for_something_else_are_refused() {
    for text in [
        "npx://--yes",
        "npx://a b",
        "npx://",
        "npx://@a",
        "npx://a@",
        "npx://../x",
        "uvx://-h",
        "uvx://a;b",
        "uvx://a==",
        "npx://@a/-b",
    ] {
        assert!(matches!(Source::parse(text), Err(SourceError::Package(_))), "{text}");
    }
}

#[test]
fn addresses_and_files_are_told_from_what_names_nothing() {
    assert_eq!(
        Source::parse("https://a.example/mcp"),
        Ok(Source::Url("https://a.example/mcp".into()))
    );
    assert_eq!(Source::parse("a/server.json"), Ok(Source::File("a/server.json".into())));
    assert!(matches!(Source::parse("wss://a"), Err(SourceError::Url { .. })));
    assert!(matches!(Source::parse("ftp://a"), Err(SourceError::Url { .. })));
    assert!(matches!(Source::parse("npx"), Err(SourceError::Unknown(_))));
}

#[test]
fn a_repository_has_an_address_and_perhaps_a_reference() {
    let git = GitSource::parse("https://github.com/a/b.git@feature/x").unwrap();
    assert_eq!(
        (git.url.as_str(), git.reference.as_deref()),
        ("https://github.com/a/b.git", Some("feature/x"))
    );
    assert_eq!((git.name(), git.commit()), ("b", None));
    assert_eq!(git.pinned(COMMIT).to_string(), format!("git+https://github.com/a/b.git@{COMMIT}"));
    let ssh = GitSource::parse(&format!("ssh://git@host/a/b@{COMMIT}")).unwrap();
    assert_eq!((ssh.url.as_str(), ssh.commit()), ("ssh://git@host/a/b", Some(COMMIT)));
    assert_eq!(GitSource::parse("file:///srv/a").unwrap().url, "file:///srv/a");
}

#[test]
fn a_page_of_a_repository_is_taken_too() {
    let git = GitSource::from_page("https://github.com/a/b/tree/v1.2/").unwrap();
    assert_eq!(git.to_string(), "git+https://github.com/a/b@v1.2");
    assert!(GitSource::from_page("https://github.com/a/b@x/tree/v1").is_err());
}

#[test]
fn what_git_would_take_for_an_option_or_a_program_is_refused() {
    for text in [
        "ext::sh -c x",
        "http://a/b",
        "https://u:p@host/a",
        "https://-o/a",
        "https://a/b@-x",
        "https://a",
        "https:///a",
        "ssh://-oProxyCommand=x/a",
        "https://a/b c",
        "https://a/b@",
    ] {
        assert!(GitSource::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_reference_is_the_commit_of_its_branch_or_of_its_tag() {
    let listing = format!(
        "{COMMIT}\trefs/heads/main\n{OTHER}\trefs/tags/v1\n{COMMIT}\trefs/tags/v1^{{}}\n{OTHER}\tHEAD\n"
    );
    assert_eq!(find_commit(&listing, Some("main")).unwrap(), COMMIT);
    assert_eq!(find_commit(&listing, Some("v1")).unwrap(), COMMIT);
    assert_eq!(find_commit(&listing, None).unwrap(), OTHER);
    assert_eq!(find_commit(&listing, Some("mai")), Err(ReferenceError::Unknown("mai".into())));
}

#[test]
fn a_name_of_two_things_stands_for_neither() {
    let listing = format!("{COMMIT}\trefs/heads/x\n{OTHER}\trefs/tags/x\n");
    assert_eq!(find_commit(&listing, Some("x")), Err(ReferenceError::Ambiguous("x".into())));
    let same = listing.replace(OTHER, COMMIT);
    assert_eq!(find_commit(&same, Some("x")).unwrap(), COMMIT);
}

#[test]
fn a_listing_of_rubbish_names_no_commit() {
    assert!(find_commit("x\trefs/heads/main\n\n\t\nHEAD", Some("main")).is_err());
}

#[track_caller]
fn check_command(text: &str, expected: &[&str]) {
    let (command, args) = Source::parse(text).unwrap().command().unwrap();
    let words: Vec<_> = std::iter::once(command).chain(args).collect();
    assert_eq!(words, expected);
}
