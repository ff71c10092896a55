//! Orders to a running Firecracker: HTTP over its private socket.
//!
//! Answers are bounded. Firecracker sends small JSON bodies with a length, so nothing else of HTTP
//! is understood; an answer of another kind is an error.

use osvm_vmm::GuestStream;
use std::io;
use std::time::Instant;
use thiserror::Error;

/// Longest answer read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Why an order was not carried out.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The socket failed, or the deadline passed.
    #[error("cannot talk to Firecracker")]
    Io(#[from] io::Error),
    /// The bytes are not an HTTP answer of the kind Firecracker gives.
    #[error("Firecracker gave an answer that is not HTTP as expected")]
    BadAnswer,
    /// Firecracker says no.
    #[error("Firecracker refused with status {status}: {body}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        body: String,
    },
}

/// What is to be done with what a path names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Method {
    Put,
    Patch,
}

/// Sends an order with a JSON body and waits for the answer, which is 204 when it is good. Further
/// orders may follow on the same stream.
pub(crate) fn send(
    stream: &mut GuestStream,
    method: Method,
    path: &str,
    body: &str,
    deadline: Instant,
) -> Result<(), ApiError> {
    let method = match method {
        Method::Put => "PUT",
        Method::Patch => "PATCH",
    };
    let len = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes(), deadline)?;
    let mut answer = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let len = stream.read(&mut piece, deadline)?;
        answer.extend_from_slice(piece.get(..len).unwrap_or_default());
        match parse(&answer)? {
            Some(result) => return result,
            None if len == 0 || MAX_ANSWER < answer.len() => return Err(ApiError::BadAnswer),
            None => {}
        }
    }
}

/// The answer in `bytes`; `None` while it is not whole.
fn parse(bytes: &[u8]) -> Result<Option<Result<(), ApiError>>, ApiError> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut answer = httparse::Response::new(&mut headers);
    let Ok(status) = answer.parse(bytes) else { return Err(ApiError::BadAnswer) };
    let (httparse::Status::Complete(head), Some(code)) = (status, answer.code) else {
        return Ok(None);
    };
    let length = answer.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length = length.map_or(Some(0), |h| str::from_utf8(h.value).ok()?.trim().parse().ok());
    let length: usize = length.filter(|len| *len <= MAX_ANSWER).ok_or(ApiError::BadAnswer)?;
    let Some(body) = bytes.get(head..).and_then(|rest| rest.get(..length)) else {
        return Ok(None);
    };
    if (200..300).contains(&code) {
        return Ok(Some(Ok(())));
    }
    Ok(Some(Err(ApiError::Refused { status: code, body: osvm_vmm::clean(body, 512) })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_content_is_success() {
        let answer = b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n";
        assert!(matches!(parse(answer), Ok(Some(Ok(())))));
    }

    #[test]
    fn a_refusal_keeps_its_words() {
        let answer = b"HTTP/1.1 400 \r\nContent-Length: 5\r\n\r\n{\"a\"}";
        let Ok(Some(Err(ApiError::Refused { status, body }))) = parse(answer) else {
            panic!("not a refusal")
        };
        assert_eq!((status, body.as_str()), (400, "{\"a\"}"));
    }

    #[test]
    fn half_an_answer_asks_for_more() {
        assert!(matches!(parse(b"HTTP/1.1 400 \r\nContent-Length: 5\r\n\r\n{"), Ok(None)));
        assert!(matches!(parse(b"HTTP/1.1 2"), Ok(None)));
    }

    #[test]
    fn rubbish_and_endless_answers_are_refused() {
        assert!(matches!(parse(b"\0\0\0\0"), Err(ApiError::BadAnswer)));
        let endless = b"HTTP/1.1 200 \r\nContent-Length: 99999999\r\n\r\n";
        assert!(matches!(parse(endless), Err(ApiError::BadAnswer)));
    }
}
