//! HTTP/1.1 as a proxy of one request per connection reads and writes it. Only the form.
//!
//! # Invariants
//!
//! - Total and bounded: a head has at most [`MAX_HEAD`] bytes and [`MAX_HEADERS`] lines.
//! - A request whose length has two readings is refused.

use httparse::{EMPTY_HEADER, Status};

/// Longest head of a request, in bytes.
pub(crate) const MAX_HEAD: usize = 32 * 1024;

/// Lines of a head, as many as the host takes.
const MAX_HEADERS: usize = 64;

/// Longest line that says how long a chunk is.
const MAX_CHUNK_LINE: usize = 1024;

/// The head of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    /// Whether the program knows chunks.
    pub(crate) chunks: bool,
    /// Whether it waits for a word before it sends the body.
    pub(crate) waits: bool,
    pub(crate) body: Body,
}

/// Where a body is: what is still to come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Left(u64),
    /// The line that begins a chunk comes next.
    ChunkLine,
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// Lines after the last chunk.
    Trailer,
    Done,
}

/// Reads a head from the front of `bytes`, and takes it out. `None`: more is needed.
pub(crate) fn head(bytes: &mut Vec<u8>) -> Option<Result<Head, &'static str>> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let (len, head) = match request.parse(bytes) {
        Ok(Status::Partial) if bytes.len() < MAX_HEAD => return None,
        Ok(Status::Partial) => return Some(Err("the head of the request is too long")),
        Ok(Status::Complete(len)) => (len, build(&request)),
        Err(_) => return Some(Err("this is no HTTP request")),
    };
    bytes.drain(..len);
    Some(head)
}

fn build(request: &httparse::Request<'_, '_>) -> Result<Head, &'static str> {
    let mut head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        headers: Vec::new(),
        chunks: request.version == Some(1),
        waits: false,
        body: Body::Done,
    };
    let (mut length, mut chunked) = (None, false);
    for header in request.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_| "a header is no text")?.trim();
        let name = header.name.to_ascii_lowercase();
        match name.as_str() {
            "content-length" => {
                let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                let bytes: u64 =
                    value.parse().ok().filter(|_| digits).ok_or("its length is odd")?;
                if length.is_some_and(|known| known != bytes) {
                    return Err("it has two lengths");
                }
                length = Some(bytes);
            }
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") && !chunked => {
                chunked = true;
            }
            "transfer-encoding" => return Err("its transfer encoding is not known here"),
            "expect" => head.waits = value.eq_ignore_ascii_case("100-continue"),
            "upgrade" | "connection" | "proxy-connection" | "keep-alive" => {}
            _ => head.headers.push((name, value.to_owned())),
        }
    }
    head.body = match (length, chunked) {
        (Some(_), true) => return Err("it has a length and chunks"),
        (None, true) => Body::ChunkLine,
        (None | Some(0), false) => Body::Done,
        (Some(bytes), false) => Body::Left(bytes),
    };
    Ok(head)
}

impl Body {
    /// Moves what `from` has of the body to `to`, until that has `enough` bytes.
    pub(crate) fn take(
        &mut self,
        from: &mut Vec<u8>,
        to: &mut Vec<u8>,
        enough: usize,
    ) -> Result<(), &'static str> {
        loop {
            match self {
                Self::Done => return Ok(()),
                Self::Left(0) => *self = Self::Done,
                Self::Chunk(0) => *self = Self::ChunkEnd,
                Self::Left(left) | Self::Chunk(left) => {
                    let room = enough.saturating_sub(to.len()).min(from.len());
                    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(room);
                    if len == 0 {
                        return Ok(());
                    }
                    to.extend(from.drain(..len));
                    *left -= len as u64;
                }
                Self::ChunkEnd | Self::Trailer | Self::ChunkLine => {
                    let Some(line) = line(from)? else { return Ok(()) };
                    self.after(&line)?;
                }
            }
        }
    }

    /// What comes after a line outside of the data.
    fn after(&mut self, line: &[u8]) -> Result<(), &'static str> {
        const ODD: &str = "its chunks are odd";
        *self = match self {
            Self::ChunkEnd if line.is_empty() => Self::ChunkLine,
            Self::ChunkEnd => return Err(ODD),
            Self::Trailer if line.is_empty() => Self::Done,
            Self::Trailer => Self::Trailer,
            _ => {
                let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
                let size = std::str::from_utf8(size.trim_ascii_end()).map_err(|_| ODD)?;
                let digits = size.bytes().all(|byte| byte.is_ascii_hexdigit());
                match u64::from_str_radix(size, 16).ok().filter(|_| digits).ok_or(ODD)? {
                    0 => Self::Trailer,
                    len => Self::Chunk(len),
                }
            }
        };
        Ok(())
    }
}

/// Takes a line out, without its end.
fn line(from: &mut Vec<u8>) -> Result<Option<Vec<u8>>, &'static str> {
    let Some(end) = from.iter().take(MAX_CHUNK_LINE).position(|byte| *byte == b'\n') else {
        return if from.len() < MAX_CHUNK_LINE { Ok(None) } else { Err("its chunks are odd") };
    };
    let mut line: Vec<u8> = from.drain(..=end).collect();
    line.pop();
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(line))
}

/// Host and port of a `CONNECT`.
pub(crate) fn authority(target: &str) -> Option<(String, u16)> {
    let (host, port) = target.rsplit_once(':')?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = inner.unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// An answer of PID 1 itself.
pub(crate) fn refusal(status: u16, words: &str) -> Vec<u8> {
    let reason = reason(status);
    let len = words.len() + 1;
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {len}\r\nConnection: close\r\n\r\n{words}\n"
    )
    .into_bytes()
}

/// The word after a status; nothing depends on it.
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200..=299 => "OK",
        300..=399 => "Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        502 => "Bad Gateway",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Head, &'static str> {
        head(&mut text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_head_is_taken_out_and_the_body_stays() {
        let mut bytes =
            b"POST http://a/x HTTP/1.1\r\nA: b\r\nContent-Length: 3\r\n\r\nxyz".to_vec();
        let head = head(&mut bytes).unwrap().unwrap();
        assert_eq!((head.method.as_str(), head.target.as_str()), ("POST", "http://a/x"));
        assert_eq!(head.headers, [("a".to_owned(), "b".to_owned())]);
        assert_eq!((head.body, bytes), (Body::Left(3), b"xyz".to_vec()));
    }

    #[test]
    fn a_length_with_two_readings_is_refused() {
        for headers in [
            "Content-Length: 3\r\nContent-Length: 4\r\n",
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: +3\r\n",
            "Content-Length: \r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            assert!(
                parse(&format!("POST http://a/ HTTP/1.1\r\n{headers}\r\n")).is_err(),
                "{headers}"
            );
        }
    }

    #[test]
    fn a_head_without_an_end_is_refused_at_some_time() {
        let mut bytes = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(MAX_HEAD)).into_bytes();
        assert!(head(&mut bytes).unwrap().is_err());
        assert!(head(&mut b"GET / HT".to_vec()).is_none());
        assert!(head(&mut b"\x16\x03\x01".to_vec()).unwrap().is_err());
    }

    #[test]
    fn chunks_are_put_together_and_odd_ones_refused() {
        assert_eq!(
            chunks(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: x\r\n\r\n", 100),
            Ok("abcde".into())
        );
        for odd in ["x\r\n", "3\r\nabcd\r\n", "-1\r\n", "+1\r\n", "\r\n", "fffffffffffffffff\r\n"] {
            assert!(chunks(odd.as_bytes(), 100).is_err(), "{odd}");
        }
    }

    #[track_caller]
    fn chunks(bytes: &[u8], piece: usize) -> Result<String, &'static str> {
        let (mut body, mut from, mut to) = (Body::ChunkLine, Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            from.extend_from_slice(piece);
            body.take(&mut from, &mut to, usize::MAX)?;
        }
        assert_eq!(body, Body::Done);
        Ok(String::from_utf8(to).unwrap())
    }

    #[test]
    fn an_authority_has_a_host_and_a_port() {
        let found = |text: &str| authority(text);
        assert_eq!(found("a.com:443"), Some(("a.com".into(), 443)));
        assert_eq!(found("[::1]:80"), Some(("::1".into(), 80)));
        for odd in ["a.com", ":443", "a.com:0", "a.com:99999", "a.com:x"] {
            assert_eq!(found(odd), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn however_chunks_come_the_body_is_the_same(piece in 1_usize..30) {
            let bytes = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: x\r\n\r\n";
            prop_assert_eq!(chunks(bytes, piece), Ok("abcde".to_owned()));
        }

        #[test]
        fn any_bytes_are_a_head_or_none(mut bytes: Vec<u8>) {
            let _total = head(&mut bytes);
        }

        #[test]
        fn any_bytes_are_chunks_or_none(mut bytes: Vec<u8>) {
            let _total = Body::ChunkLine.take(&mut bytes, &mut Vec::new(), 100);
        }
    }
}
