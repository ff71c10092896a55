//! The control socket between two ends of one process: what arrives, what is refused, what is gone.

use super::*;
use rustix::pipe::{PipeFlags, pipe_with};

#[test]
fn a_message_arrives_with_its_descriptors() {
    let (ours, theirs) = pair().unwrap();
    let theirs = Control::new(theirs);
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    ours.send(&Order::Connect { token: 7, port: 5252 }, &[writer.as_fd()]).unwrap();
    drop(writer);

    let mut buffer = [0; 256];
    let received = theirs.receive(&mut buffer, RecvFlags::empty()).unwrap().unwrap();
    let order = serde_json::from_slice(&buffer[..received.len]).unwrap();
    let Order::Connect { token, port } = order else { panic!("{order:?}") };
    assert_eq!((token, port), (7, 5252));
    let [fd] = &received.fds[..] else { panic!("{received:?}") };
    rustix::io::write(fd, b"x").unwrap();
    assert_eq!(rustix::io::read(&reader, &mut [0; 8][..]).unwrap(), 1);
}

#[test]
fn an_end_that_is_gone_is_told_from_one_that_is_silent() {
    let (ours, theirs) = pair().unwrap();
    let silent = ours.receive(&mut [0; 16], RecvFlags::DONTWAIT).unwrap_err();
    assert_eq!(silent.kind(), io::ErrorKind::WouldBlock);
    drop(theirs);
    assert!(ours.receive(&mut [0; 16], RecvFlags::DONTWAIT).unwrap().is_none());
    let gone = ours.send_bytes(b"hello", &[]).unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn last_words_are_heard_from_an_end_that_left_our_message_unread() {
    let (ours, theirs) = pair().unwrap();
    let theirs = Control::new(theirs);
    theirs.send_bytes(b"last words", &[]).unwrap();
    ours.send_bytes(b"unread", &[]).unwrap();
    drop(theirs);
    let mut buffer = [0; 16];
    let received = ours.receive(&mut buffer, RecvFlags::DONTWAIT).unwrap().unwrap();
    assert_eq!(&buffer[..received.len], b"last words");
    assert!(ours.receive(&mut buffer, RecvFlags::DONTWAIT).unwrap().is_none());
}

#[test]
fn an_end_that_left_our_message_unread_is_gone_for_the_next() {
    let (ours, theirs) = pair().unwrap();
    ours.send_bytes(b"unread", &[]).unwrap();
    drop(theirs);
    let gone = ours.send_bytes(b"hello", &[]).unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_message_longer_than_its_buffer_is_refused_not_cut() {
    let (ours, theirs) = pair().unwrap();
    ours.send_bytes(&[b'x'; 17], &[]).unwrap();
    let refusal = Control::new(theirs).receive(&mut [0; 16], RecvFlags::DONTWAIT).unwrap_err();
    assert_eq!(refusal.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn surplus_descriptors_are_refused_and_closed() {
    let (ours, theirs) = pair().unwrap();
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    // More than the receiver has room for.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let surplus = [writer.as_fd(); 16];
    assert!(rights.push(SendAncillaryMessage::ScmRights(&surplus)));
    sendmsg(&ours, &[IoSlice::new(b"x")], &mut rights, SendFlags::NOSIGNAL).unwrap();
    drop(writer);
    let refusal = Control::new(theirs).receive(&mut [0; 16], RecvFlags::DONTWAIT).unwrap_err();
    assert_eq!(refusal.kind(), io::ErrorKind::InvalidData);
    // No writer is left anywhere, so the pipe reads as ended.
    assert_eq!(rustix::io::read(&reader, &mut [0; 8][..]).unwrap(), 0);
}

#[test]
fn the_longest_boot_page_fits() {
    let (ours, theirs) = pair().unwrap();
    ours.send_bytes(&[b'x'; MAX_ORDER], &[]).unwrap();
    let mut buffer = vec![0; MAX_ORDER];
    let received = Control::new(theirs).receive(&mut buffer, RecvFlags::empty()).unwrap().unwrap();
    assert_eq!(received.len, MAX_ORDER);
}

#[test]
fn a_stranger_s_words_are_cleaned() {
    let end = End::Panicked { last_words: "\u{1b}[2Jbye\nbye".into() };
    assert_eq!(Death::from(end), Death::Panicked { last_words: "\u{fffd}[2Jbye; bye".into() });
}
