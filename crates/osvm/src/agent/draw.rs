//! Draws a [`Chat`]: from state to cells, and nothing else.
//!
//! ```text
//! OSVM: 1μVMs 2uK • …                    status line
//! > what was asked                       conversation, its end at the bottom
//! ⣾ system__echo  unikernel CID 200 0.3s calls that run
//! ┌ approve? ─────────────────┐          a question, if there is one
//! ── working 3 s, Ctrl-C cancels ──
//! › what is being typed
//! ```

use super::calls::Running;
use super::chat::{Chat, Entry, Kind};
use super::editor::Editor;
use super::feed::Question;
use super::status;
use super::words::{self, wrap};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Position, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Clear, Paragraph};
use std::time::Instant;

/// Rows of calls that run.
const RUNNING: usize = 6;

/// Rows of what is being typed.
const TYPED: usize = 6;

/// Rows of a question.
const QUESTION: usize = 12;

/// Longer input is shown as its size.
const LONG_INPUT: usize = 8 * 1024;

/// Draws everything; returns how far the conversation can be and is scrolled.
pub(crate) fn draw(chat: &Chat, now: Instant, frame: &mut Frame<'_>) -> usize {
    let area = frame.area();
    let width = usize::from(area.width).max(4);
    let typed = typed(&chat.editor, width.saturating_sub(2));
    let question = chat.question().map(|question| asked(question, width.saturating_sub(2)));
    let running = rows(chat.calls.running().len().min(RUNNING));
    let asked_rows = question.as_ref().map_or(0, |lines| rows(lines.len().min(QUESTION) + 2));
    let [status, talk, calls, dialog, rule, input] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(running),
        Constraint::Length(asked_rows),
        Constraint::Length(1),
        Constraint::Length(rows(typed.lines.len().clamp(1, TYPED))),
    ])
    .areas(area);
    let first = chat.status.lines().next().unwrap_or_default();
    let bar = style(chat, Style::new().add_modifier(Modifier::REVERSED));
    frame.render_widget(
        Paragraph::new(Line::styled(status::fit(&words::clean(first), width), bar)).style(bar),
        status,
    );
    let (lines, scroll) = conversation(chat, width, usize::from(talk.height));
    frame.render_widget(Paragraph::new(Text::from(lines)), talk);
    let running: Vec<Line<'_>> = chat
        .calls
        .running()
        .iter()
        .take(RUNNING)
        .map(|call| Line::styled(runs(call, now, width), colored(chat, Color::Yellow)))
        .collect();
    frame.render_widget(Paragraph::new(running), calls);
    if let Some(lines) = question {
        dialog_box(chat, lines, dialog, frame);
    }
    let doing = match chat.busy {
        Some(_) if chat.cancelling => " cancelling … ".to_owned(),
        Some(since) => {
            let seconds = now.saturating_duration_since(since).as_secs();
            format!(" working {seconds} s, Ctrl-C cancels ")
        }
        None => " /help ".to_owned(),
    };
    let rule_line =
        format!("──{doing}{}", "─".repeat(width.saturating_sub(doing.chars().count() + 2)));
    frame.render_widget(
        Paragraph::new(Line::styled(rule_line, colored(chat, Color::DarkGray))),
        rule,
    );
    draw_input(&typed, chat.question().is_none(), input, frame);
    scroll
}

fn rows(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

fn style(chat: &Chat, style: Style) -> Style {
    // Reversed and bold are no colors, but whoever wants none wants plain text.
    if chat.colors { style } else { Style::new() }
}

fn colored(chat: &Chat, color: Color) -> Style {
    style(chat, Style::new().fg(color))
}

/// The lines that fit, the end of the conversation last, and the scroll there really is.
fn conversation(chat: &Chat, width: usize, height: usize) -> (Vec<Line<'static>>, usize) {
    let wanted = height.saturating_add(chat.scroll);
    let mut lines: Vec<Line<'static>> = Vec::new();
    for entry in chat.entries.iter().rev() {
        // Backwards, so that what is far above is not even cut into lines.
        lines.extend(entry_lines(chat, entry, width).into_iter().rev());
        if wanted <= lines.len() {
            break;
        }
    }
    let scroll = chat.scroll.min(lines.len().saturating_sub(height));
    let mut shown: Vec<Line<'static>> = lines.into_iter().skip(scroll).take(height).collect();
    shown.reverse();
    let missing = height.saturating_sub(shown.len());
    let mut all = vec![Line::default(); missing];
    all.append(&mut shown);
    (all, scroll)
}

fn entry_lines(chat: &Chat, entry: &Entry, width: usize) -> Vec<Line<'static>> {
    let (mark, style) = match entry.kind {
        Kind::Person => ("› ", style(chat, Style::new().add_modifier(Modifier::BOLD))),
        Kind::Agent => ("  ", Style::new()),
        Kind::Call => ("  ", colored(chat, Color::Cyan)),
        Kind::Note => ("· ", colored(chat, Color::DarkGray)),
        Kind::Error => ("! ", colored(chat, Color::Red)),
    };
    let mut lines = Vec::new();
    for (at, text) in wrap(&entry.text, width.saturating_sub(2)).into_iter().enumerate() {
        let lead = if at == 0 { mark } else { "  " };
        lines.push(Line::styled(format!("{lead}{text}"), style));
    }
    // An empty line after what somebody said.
    if matches!(entry.kind, Kind::Person | Kind::Agent) {
        lines.push(Line::default());
    }
    lines
}

fn runs(call: &Running, now: Instant, width: usize) -> String {
    let took = now.saturating_duration_since(call.since);
    let cids: Vec<String> = call.cids.iter().map(u32::to_string).collect();
    let cid = if cids.is_empty() { String::new() } else { format!(" CID {}", cids.join("|")) };
    let Running { name, place, progress, .. } = call;
    let seconds = took.as_secs_f64();
    words::brief(&format!("… {name} ({place}{cid}) {seconds:.1} s {progress}"), width)
}

fn asked(question: &Question, width: usize) -> Vec<String> {
    let lines = question.lines.iter().flat_map(|line| wrap(&words::clean(line), width));
    let mut lines: Vec<String> = lines.collect();
    // The choices are seen whatever the arguments are.
    lines.truncate(QUESTION - 1);
    let always = if question.always { "   [a] always in this session" } else { "" };
    lines.push(format!("[y] yes   [n] no{always}"));
    lines
}

fn dialog_box(chat: &Chat, lines: Vec<String>, area: Rect, frame: &mut Frame<'_>) {
    let style = colored(chat, Color::Yellow);
    let block = Block::bordered().title(" approve? ").border_style(style);
    let lines: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// What is being typed, in lines, and where the cursor is in them.
struct Typed {
    lines: Vec<String>,
    row: usize,
    column: usize,
}

fn typed(editor: &Editor, width: usize) -> Typed {
    let text = editor.text();
    if LONG_INPUT < text.len() {
        let lines = text.split('\n').count();
        let line = format!("[{} bytes in {lines} lines]", text.len());
        return Typed { column: line.chars().count(), lines: vec![line], row: 0 };
    }
    // Cut without moving words, so that the cursor is where its letter is.
    let (mut lines, mut row, mut column) = (vec![String::new()], 0, 0);
    let mut columns = 0;
    for (at, letter) in text.char_indices() {
        let wide = unicode_width::UnicodeWidthChar::width(letter).unwrap_or(0);
        if width < columns + wide && letter != '\n' {
            lines.push(String::new());
            columns = 0;
        }
        if at == editor.cursor() {
            (row, column) = (lines.len() - 1, columns);
        }
        if letter == '\n' {
            lines.push(String::new());
            columns = 0;
        } else if let Some(line) = lines.last_mut() {
            line.push(letter);
            columns += wide;
        }
    }
    if editor.cursor() == text.len() {
        (row, column) = (lines.len() - 1, columns);
    }
    Typed { lines, row, column }
}

fn draw_input(typed: &Typed, cursor: bool, area: Rect, frame: &mut Frame<'_>) {
    let height = usize::from(area.height).max(1);
    let first = (typed.row + 1).saturating_sub(height);
    let lines: Vec<Line<'_>> = typed
        .lines
        .iter()
        .enumerate()
        .skip(first)
        .take(height)
        .map(|(at, line)| Line::from(format!("{}{line}", if at == 0 { "› " } else { "  " })))
        .collect();
    frame.render_widget(Paragraph::new(lines), area);
    if cursor && 0 < area.height {
        let x = area.x.saturating_add(rows(typed.column + 2));
        let y = area.y.saturating_add(rows(typed.row - first));
        frame.set_cursor_position(Position { x: x.min(area.right().saturating_sub(1)), y });
    }
}

#[cfg(test)]
mod tests;
