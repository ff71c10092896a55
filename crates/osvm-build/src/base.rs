//! What every root file system has: mount points, accounts, name resolution, certificates.

use crate::error::BuildError;
use crate::packages::Pool;
use crate::tree::Tree;
use std::path::Path;

/// Folders, most of them to mount something on.
const DIRS: &[&str] = &[
    "app",
    "dev",
    "etc/ssl/certs",
    "home/osvm",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr/bin",
    "usr/lib",
    "usr/lib64",
    "usr/sbin",
    "var/tmp",
    "workspace",
];

/// The places of old times, which programs name in scripts and in their ELF headers.
const LINKS: &[(&str, &str)] =
    &[("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64"), ("sbin", "usr/sbin")];

/// Small files. The server runs as user `osvm`; names are resolved by whoever runs the guest.
const FILES: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nosvm:x:1000:1000:osvm:/home/osvm:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("etc/group", "root:x:0:\nosvm:x:1000:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/hostname", "osvm\n"),
    ("etc/resolv.conf", "nameserver 127.0.0.1\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
];

/// Where programs look for the certificates of those they trust.
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

/// Makes the folders, links and accounts, before anything else is written.
pub(crate) fn lay(tree: &mut Tree) -> Result<(), BuildError> {
    for dir in DIRS {
        tree.dir(dir)?;
    }
    for (path, target) in LINKS {
        tree.link(path, Path::new(target))?;
    }
    for (path, text) in FILES {
        tree.text(path, text)?;
    }
    Ok(())
}

/// Adds what an image from elsewhere lacks, and leaves alone what it has.
pub(crate) fn complete(tree: &mut Tree) -> Result<(), BuildError> {
    for dir in DIRS {
        if !tree.exists(dir) {
            tree.dir(dir)?;
        }
    }
    for (path, text) in FILES {
        if !tree.exists(path) {
            tree.text(path, text)?;
        }
    }
    Ok(())
}

/// Writes the certificates that Mozilla trusts, as the Debian package has them: the host's own
/// list may hold more, which are nobody else's business.
pub(crate) fn certificates(tree: &mut Tree, pool: &Pool) -> Result<(), BuildError> {
    const FROM: &str = "usr/share/ca-certificates/mozilla";
    let mut all = Vec::new();
    if let Some(dir) = pool.find(Path::new(FROM)) {
        let mut paths: Vec<_> = std::fs::read_dir(&dir)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .map_err(BuildError::io(&dir))?;
        paths.sort_unstable();
        for path in paths {
            all.extend(std::fs::read(&path).map_err(BuildError::io(&path))?);
        }
    } else {
        let host = Path::new("/").join(CERTIFICATES);
        if host.exists() {
            all = std::fs::read(&host).map_err(BuildError::io(&host))?;
        }
    }
    tree.file(CERTIFICATES, false, all.as_slice()).map(drop)
}
