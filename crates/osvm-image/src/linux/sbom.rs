//! What is in an image, as CycloneDX 1.6 in JSON.

use super::{Manifest, Source, SourceKind};
use crate::Digest;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The bill of materials of the image whose manifest has `digest`.
///
/// Shape: <https://cyclonedx.org/docs/1.6/json/>. It says nothing that is not in the manifest, so
/// it is as reproducible as the image; the serial number is made from the digest.
pub fn sbom(manifest: &Manifest, digest: Digest) -> Value {
    let components: Vec<Value> = manifest.sources.iter().map(component).collect();
    let mut metadata = json!({
        "component": {
            "bom-ref": digest.to_string(),
            "type": "container",
            "name": manifest.name,
            "version": digest.to_string(),
            "hashes": [{"alg": "SHA-256", "content": manifest.root.digest.hex()}],
        },
        "tools": {"components": [{"type": "application", "name": "osvm", "version": env!("CARGO_PKG_VERSION")}]},
    });
    if let (Some(created), Some(fields)) = (&manifest.created, metadata.as_object_mut()) {
        fields.insert("timestamp".into(), Value::from(created.clone()));
    }
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": serial(digest),
        "version": 1,
        "metadata": metadata,
        "components": components,
        "dependencies": [{
            "ref": digest.to_string(),
            "dependsOn": manifest.sources.iter().map(purl).collect::<Vec<_>>(),
        }],
    })
}

fn component(source: &Source) -> Value {
    let kind = if source.kind == SourceKind::Files { "file" } else { "library" };
    let mut component = json!({
        "bom-ref": purl(source),
        "type": kind,
        "name": source.name,
        "purl": purl(source),
    });
    if let Some(fields) = component.as_object_mut() {
        if !source.version.is_empty() {
            fields.insert("version".into(), Value::from(source.version.clone()));
        }
        let hash = source.digest.as_deref().and_then(|digest| digest.split_once(':'));
        let alg = |alg| match alg {
            "sha256" => Some("SHA-256"),
            "sha512" => Some("SHA-512"),
            "sha1" => Some("SHA-1"),
            _ => None,
        };
        if let Some((alg, content)) = hash.and_then(|(name, content)| Some((alg(name)?, content))) {
            fields.insert("hashes".into(), json!([{"alg": alg, "content": content}]));
        }
    }
    component
}

/// The package URL: <https://github.com/package-url/purl-spec>.
fn purl(source: &Source) -> String {
    let name = match source.kind {
        // Scope and name are two parts of the path.
        SourceKind::Npm => source.name.split('/').map(escape).collect::<Vec<_>>().join("/"),
        _ => escape(&source.name),
    };
    let version = match &*source.version {
        "" => String::new(),
        version => format!("@{}", escape(version)),
    };
    match source.kind {
        SourceKind::Npm => format!("pkg:npm/{name}{version}"),
        SourceKind::Pypi => format!("pkg:pypi/{}{version}", name.to_ascii_lowercase()),
        SourceKind::Debian => format!("pkg:deb/debian/{name}{version}?arch=amd64"),
        SourceKind::Oci => format!("pkg:oci/{name}{version}"),
        SourceKind::Git => {
            let url = escape(&format!("git+{}@{}", source.name, source.version));
            let last = source.name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let last = last.strip_suffix(".git").unwrap_or(last);
            format!("pkg:generic/{}{version}?vcs_url={url}", escape(last))
        }
        SourceKind::Files => format!("pkg:generic/{name}{version}"),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            // Writing to a `String` can't fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// A version 8 UUID (RFC 9562, section 5.8) from the digest's first bytes.
fn serial(digest: Digest) -> String {
    let hex: Vec<char> = digest.hex().chars().collect();
    let part =
        |from: usize, to: usize| hex.get(from..to).unwrap_or_default().iter().collect::<String>();
    let (a, b, c, d, e) = (part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32));
    format!("urn:uuid:{a}-{b}-8{c}-8{d}-{e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(kind: SourceKind, name: &str, version: &str) -> Source {
        Source { kind, name: name.into(), version: version.into(), digest: None }
    }

    #[test]
    fn purls_are_those_of_the_specification() {
        for (kind, name, version, expected) in [
            (SourceKind::Npm, "@a/b", "1.0.0", "pkg:npm/%40a/b@1.0.0"),
            (SourceKind::Pypi, "Mcp_Server", "1", "pkg:pypi/mcp_server@1"),
            (
                SourceKind::Debian,
                "libstdc++6",
                "1:2+b",
                "pkg:deb/debian/libstdc%2B%2B6@1%3A2%2Bb?arch=amd64",
            ),
            (SourceKind::Files, "./x y", "", "pkg:generic/.%2Fx%20y"),
        ] {
            assert_eq!(purl(&source(kind, name, version)), expected);
        }
    }

    #[test]
    fn a_serial_number_is_a_uuid_of_version_8() {
        let serial = serial(Digest::of(b""));
        assert_eq!(serial, "urn:uuid:e3b0c442-98fc-8c14-8afb-f4c8996fb924");
    }

    #[test]
    fn a_component_has_the_hash_of_its_source() {
        let with = Source { digest: Some("sha512:ab".into()), ..source(SourceKind::Npm, "x", "1") };
        assert_eq!(component(&with)["hashes"], json!([{"alg": "SHA-512", "content": "ab"}]));
        assert_eq!(component(&source(SourceKind::Npm, "x", "1"))["hashes"], Value::Null);
    }
}
