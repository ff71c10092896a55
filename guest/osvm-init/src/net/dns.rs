//! Questions for names, as bytes: RFC 1035. Only the form; what is answered is decided elsewhere.
//!
//! Total: whatever a program sends is read or is no question.

use std::net::Ipv4Addr;

/// Longest question that is read, in bytes: RFC 1035, 2.3.4.
pub(crate) const MAX: usize = 512;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_ANY: u16 = 255;
const CLASS_IN: u16 = 1;

/// How long an answer may be kept, in seconds. The address belongs to the name for good, but
/// whether the name may be reached does not.
const TTL: u32 = 5;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    id: [u8; 2],
    recursion_desired: bool,
    /// Name, type and class as they were sent.
    raw: Vec<u8>,
    /// Lower case, without a dot at its end.
    pub(crate) name: String,
    /// Whether an IPv4 address is asked for.
    pub(crate) wants_v4: bool,
}

/// What a name has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// This address, and none of another kind.
    Address(Ipv4Addr),
    /// There is no such name.
    Unknown,
    /// Nobody knows now.
    Failed,
}

/// Reads a message with one question of class IN.
pub(crate) fn read(message: &[u8]) -> Option<Question> {
    if MAX < message.len() {
        return None;
    }
    let (header, rest) = message.split_first_chunk::<HEADER>()?;
    let [id0, id1, flags, _, q0, q1, ..] = *header;
    // A question (QR 0), opcode 0, and just one.
    if flags & 0xf8 != 0 || u16::from_be_bytes([q0, q1]) != 1 {
        return None;
    }
    let (name, len) = name(rest)?;
    let (kind, tail) = rest.get(len..)?.split_first_chunk::<2>()?;
    let (class, _) = tail.split_first_chunk::<2>()?;
    if u16::from_be_bytes(*class) != CLASS_IN {
        return None;
    }
    let kind = u16::from_be_bytes(*kind);
    Some(Question {
        id: [id0, id1],
        recursion_desired: flags & 1 != 0,
        raw: rest.get(..len + 4)?.to_vec(),
        name,
        wants_v4: matches!(kind, TYPE_A | TYPE_ANY),
    })
}

/// A name without pointers, and how many bytes it takes.
fn name(bytes: &[u8]) -> Option<(String, usize)> {
    let (mut text, mut at) = (String::new(), 0);
    loop {
        let len = usize::from(*bytes.get(at)?);
        at += 1;
        if len == 0 {
            return (!text.is_empty()).then_some((text, at));
        }
        // Longer is a pointer, which a question has no use for.
        if 63 < len {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        for byte in bytes.get(at..at + len)? {
            let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            text.push(char::from(plain.then_some(byte.to_ascii_lowercase())?));
        }
        at += len;
        if 253 < text.len() {
            return None;
        }
    }
}

/// The answer as a message.
pub(crate) fn write(question: &Question, answer: Answer) -> Vec<u8> {
    let (code, address): (u8, _) = match answer {
        Answer::Address(address) if question.wants_v4 => (0, Some(address)),
        Answer::Address(_) => (0, None),
        Answer::Failed => (2, None),
        Answer::Unknown => (3, None),
    };
    // A response, with authority; recursion is there for whoever wants it.
    let flags = [0x84 | u8::from(question.recursion_desired), 0x80 | code];
    let count = u8::from(address.is_some());
    let mut message = Vec::with_capacity(HEADER + question.raw.len() + 16);
    message.extend_from_slice(&question.id);
    message.extend_from_slice(&flags);
    message.extend_from_slice(&[0, 1, 0, count, 0, 0, 0, 0]);
    message.extend_from_slice(&question.raw);
    if let Some(address) = address {
        // A pointer to the name in the question, which is behind the header.
        message.extend_from_slice(&[0xc0, 12]);
        message.extend_from_slice(&TYPE_A.to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        message.extend_from_slice(&TTL.to_be_bytes());
        message.extend_from_slice(&[0, 4]);
        message.extend_from_slice(&address.octets());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `A.test`, type A, class IN, as a resolver sends it.
    const ASKED: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01A\x04test\0\0\x01\0\x01";

    #[test]
    fn a_question_is_read_and_answered() {
        let question = read(ASKED).unwrap();
        assert_eq!((question.name.as_str(), question.wants_v4), ("a.test", true));
        let answer = write(&question, Answer::Address([127, 100, 0, 1].into()));
        assert!(answer.starts_with(b"\x12\x34\x85\x80\0\x01\0\x01\0\0\0\0\x01A\x04test\0"));
        assert!(answer.ends_with(b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x7f\x64\0\x01"));
    }

    #[test]
    fn another_kind_of_address_does_not_exist_but_the_name_does() {
        let mut asked = ASKED.to_vec();
        asked[ASKED.len() - 3] = 28;
        let question = read(&asked).unwrap();
        let answer = write(&question, Answer::Address([127, 100, 0, 1].into()));
        assert_eq!((answer[3] & 15, answer[7]), (0, 0));
        assert_eq!(write(&question, Answer::Unknown)[3] & 15, 3);
    }

    #[test]
    fn what_is_no_plain_question_is_not_answered() {
        let change = |at: usize, byte: u8| {
            let mut asked = ASKED.to_vec();
            asked[at] = byte;
            read(&asked)
        };
        assert_eq!(change(2, 0x81), None);
        assert_eq!(change(5, 2), None);
        assert_eq!(change(12, 0xc0), None);
        assert_eq!(change(13, b'.'), None);
        assert_eq!(change(ASKED.len() - 1, 3), None);
        assert_eq!(read(b"\0\0\x01\0\0\x01\0\0\0\0\0\0\0\0\x01\0\x01"), None);
        for end in 0..ASKED.len() {
            assert_eq!(read(&ASKED[..end]), None, "{end}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_question_or_none(message in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(question) = read(&message) {
                let answer = write(&question, Answer::Address([127, 100, 0, 1].into()));
                prop_assert!(answer.len() <= MAX + 16);
            }
        }
    }
}
