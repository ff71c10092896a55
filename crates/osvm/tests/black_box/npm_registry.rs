//! A small npm registry on loopback: it has packages of its own, and sends whoever asks for others to
//! the registry that npm is set up to use here.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

/// A running registry. Its threads end with the test program.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) port: u16,
    /// What it answers besides packages, by path. Set once.
    pub(crate) pages: Arc<OnceLock<BTreeMap<String, String>>>,
}

/// A package: its `package.json`, and its other files.
pub(crate) struct Package {
    pub(crate) json: Value,
    pub(crate) files: &'static [(&'static str, &'static str)],
}

impl Registry {
    /// Has these packages.
    pub(crate) fn start(packages: &[Package]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut answers: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for package in packages {
            let (name, version) = (text(&package.json, "name"), text(&package.json, "version"));
            let archive = format!("/{name}/-/{name}-{version}.tgz");
            let mut manifest = package.json.clone();
            manifest["dist"] = json!({"tarball": format!("http://127.0.0.1:{port}{archive}")});
            let packument = json!({"name": name, "dist-tags": {"latest": version},
                "versions": {&version: manifest}});
            answers.insert(format!("/{name}"), packument.to_string().into_bytes());
            answers.insert(archive, packed(package));
        }
        let upstream = Command::new("npm").args(["config", "get", "registry"]).output();
        let upstream = upstream.map(|said| String::from_utf8(said.stdout).unwrap());
        let upstream = upstream.unwrap_or_default().trim().trim_end_matches('/').to_owned();
        let (answers, pages) =
            (Arc::new(answers), Arc::<OnceLock<BTreeMap<String, String>>>::default());
        let known = Arc::clone(&pages);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, known) = (Arc::clone(&answers), Arc::clone(&known));
                let upstream = upstream.clone();
                std::thread::spawn(move || {
                    serve(&stream, |path| {
                        let page = known.get().and_then(|pages| pages.get(path));
                        let page = page.map(|page| page.clone().into_bytes());
                        let answer = page.or_else(|| answers.get(path).cloned());
                        answer.ok_or_else(|| format!("{upstream}{path}"))
                    })
                });
            }
        });
        Self { port, pages }
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

fn text(json: &Value, name: &str) -> String {
    json[name].as_str().unwrap().to_owned()
}

/// The same bytes each time.
fn packed(package: &Package) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("package");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("package.json"), package.json.to_string()).unwrap();
    for (name, text) in package.files {
        std::fs::write(root.join(name), text).unwrap();
    }
    tar(dir.path())
}

fn tar(dir: &Path) -> Vec<u8> {
    let fixed = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--mode=a+rX"];
    let mut make = Command::new("tar");
    make.args(fixed).args(["-c", "-I", "gzip -n", "-C"]).arg(dir).arg("package");
    let made = make.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

/// Answers with bytes, or with where they are.
fn serve(stream: &TcpStream, answer: impl Fn(&str) -> Result<Vec<u8>, String>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut path = None;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            path.get_or_insert_with(|| line.split(' ').nth(1).unwrap_or("/").to_owned());
        }
        let (head, body) = match answer(&path.unwrap_or_default()) {
            Ok(body) => ("200 OK".to_owned(), body),
            Err(elsewhere) => (format!("302 Found\r\nLocation: {elsewhere}"), Vec::new()),
        };
        let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut to = stream;
        if to.write_all(head.as_bytes()).and_then(|()| to.write_all(&body)).is_err() {
            return;
        }
    }
}
