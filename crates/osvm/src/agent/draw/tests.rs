//! Frozen pictures of the screen.

use super::super::feed::Answer;
use super::*;
use osvm_agent::Event;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::time::Duration;

fn event(text: &str) -> Event {
    serde_json::from_str(text).unwrap()
}

/// What a terminal of that size shows.
fn picture(chat: &Chat, now: Instant, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| _ = draw(chat, now, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..height {
        let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn at_work(begun: Instant) -> Chat {
    let mut chat = Chat::new(true);
    chat.status = "OSVM: 1μVMs 2uK • agent(μVM-1:run) • net:none • up:41s".into();
    chat.add(Kind::Note, "the agent runs in μVM-1; model m");
    chat.add(Kind::Person, "say one and two");
    chat.begin(begun);
    for told in [
        r#"{"text":{"text":"Both at "}}"#,
        r#"{"text":{"text":"once.\u001b[2J"}}"#,
        r#"{"plan":{"calls":[
            {"id":"a","name":"system__echo","arguments":{"text":"one"},"mode":"unikernel","needs_approval":false},
            {"id":"b","name":"system__echo","arguments":{"text":"two"},"mode":"unikernel","needs_approval":true}
            ],"by_model":true}}"#,
        r#"{"call_started":{"id":"a"}}"#,
        r#"{"call_started":{"id":"b"}}"#,
        r#"{"call_progress":{"id":"b","message":"starting a virtual machine"}}"#,
        r#"{"call_ended":{"id":"a","is_error":false,"text":"one","bytes":3,
            "isolation":{"mode":"unikernel","cid":200,"total_ms":31.7}}}"#,
    ] {
        chat.take(&event(told), begun);
    }
    chat
}

#[test]
fn the_screen_at_work() {
    let begun = Instant::now();
    let chat = at_work(begun);
    let shown = picture(&chat, begun + Duration::from_millis(3200), 72, 14);
    assert_eq!(
        shown,
        "\
OSVM: 1μVMs 2uK • agent(μVM-1:run) • net:none • up:41s


· the agent runs in μVM-1; model m
› say one and two

  Both at once.\\u001b[2J

  → system__echo {\"text\":\"one\"} (unikernel)
  → system__echo {\"text\":\"two\"} (unikernel, may destroy something)
  ✓ system__echo: unikernel, CID 200, 32 ms, 3 bytes
… system__echo (unikernel) 3.2 s starting a virtual machine
── working 3 s, Ctrl-C cancels ─────────────────────────────────────────
›
"
    );
}

#[test]
fn a_question_is_asked_where_it_is_seen() {
    let begun = Instant::now();
    let mut chat = at_work(begun);
    let (reply, answers) = mpsc::sync_channel(1);
    let lines =
        vec!["`s/wipe` needs your approval".into(), format!("arguments: {}", "x".repeat(900))];
    let over = Arc::new(AtomicBool::new(false));
    chat.questions.push_back(Question { lines, always: true, reply, over });
    let shown = picture(&chat, begun, 40, 20);
    assert!(shown.contains("`s/wipe` needs your approval"), "{shown}");
    assert!(shown.contains("[y] yes   [n] no   [a] always"), "{shown}");
    chat.question().unwrap().answer(Answer::Always);
    assert_eq!(answers.recv(), Ok(Answer::Always));
}

#[test]
fn scrolling_stops_at_both_ends() {
    let mut chat = Chat::new(false);
    for number in 0..50 {
        chat.add(Kind::Note, &format!("line {number}"));
    }
    let now = Instant::now();
    let mut terminal = Terminal::new(TestBackend::new(20, 13)).unwrap();
    for (scroll, shown, top) in [(0, 0, "· line 40"), (5, 5, "· line 35"), (999, 40, "· line 0")]
    {
        chat.scroll = scroll;
        let mut real = 0;
        terminal.draw(|frame| real = draw(&chat, now, frame)).unwrap();
        assert_eq!(real, shown);
        assert!(picture(&chat, now, 20, 13).lines().nth(1).unwrap().starts_with(top));
    }
}

#[test]
fn any_size_is_drawn() {
    let begun = Instant::now();
    let mut chat = at_work(begun);
    chat.editor.insert("several\nlines 日本語 of input");
    for width in 1..40 {
        for height in 1..12 {
            picture(&chat, begun, width, height);
        }
    }
}

#[test]
fn the_cursor_is_where_the_next_letter_goes() {
    let mut chat = Chat::new(true);
    chat.editor.insert("ab\n日本");
    let mut terminal = Terminal::new(TestBackend::new(20, 8)).unwrap();
    terminal.draw(|frame| _ = draw(&chat, Instant::now(), frame)).unwrap();
    terminal.backend_mut().assert_cursor_position(Position { x: 6, y: 7 });
    chat.editor.left();
    terminal.draw(|frame| _ = draw(&chat, Instant::now(), frame)).unwrap();
    terminal.backend_mut().assert_cursor_position(Position { x: 4, y: 7 });
}

#[test]
fn without_colors_no_cell_has_a_style() {
    let begun = Instant::now();
    let mut chat = at_work(begun);
    chat.colors = false;
    let mut terminal = Terminal::new(TestBackend::new(60, 14)).unwrap();
    terminal.draw(|frame| _ = draw(&chat, begun, frame)).unwrap();
    let plain = |cell: &ratatui::buffer::Cell| {
        cell.fg == Color::Reset && cell.bg == Color::Reset && cell.modifier.is_empty()
    };
    assert!(terminal.backend().buffer().content().iter().all(plain));
}

#[test]
fn a_prompt_of_a_megabyte_is_shown_as_its_size() {
    let mut chat = Chat::new(true);
    assert_eq!(chat.editor.insert(&"x\n".repeat(512 * 1024)), None);
    let shown = picture(&chat, Instant::now(), 60, 6);
    assert!(shown.contains("› [1048576 bytes in 524289 lines]"), "{shown}");
}
