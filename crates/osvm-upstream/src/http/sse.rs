//! Server-sent events, as the HTML standard defines them, from chunks of any size.

/// An event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its kind; `None` for the usual one.
    pub kind: Option<String>,
    /// What it says.
    pub data: Vec<u8>,
}

/// An event is longer than the limit.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

/// Puts events together.
#[derive(Debug)]
pub struct Events {
    limit: usize,
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed after it ends no second line.
    after_return: bool,
    started: bool,
    event: Event,
    has_data: bool,
    /// The last id that the server gave, to go on from.
    pub last_id: Option<String>,
    /// How long it wants a client to wait before that, in milliseconds.
    pub retry: Option<u64>,
}

impl Events {
    /// Events of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            after_return: false,
            started: false,
            event: Event::default(),
            has_data: false,
            last_id: None,
            retry: None,
        }
    }

    /// A new stream that goes on where this one ended: what was half received comes again.
    #[must_use]
    pub fn resumed(self) -> Self {
        Self { last_id: self.last_id, retry: self.retry, ..Self::new(self.limit) }
    }

    /// Takes a chunk and hands over the events that it completes.
    ///
    /// # Errors
    ///
    /// When an event is too long. There can be no further one.
    pub fn feed(&mut self, chunk: &[u8], mut each: impl FnMut(Event)) -> Result<(), TooLong> {
        let mut rest = chunk;
        if std::mem::take(&mut self.after_return)
            && let [b'\n', after @ ..] = rest
        {
            rest = after;
        }
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (part, after) = rest.split_at(end);
            self.grow(part)?;
            rest = match after {
                [b'\r', b'\n', after @ ..] | [_, after @ ..] => after,
                [] => after,
            };
            self.after_return = matches!(after, [b'\r']);
            let line = std::mem::take(&mut self.line);
            if let Some(event) = self.line(line)? {
                each(event);
            }
        }
        self.grow(rest)
    }

    fn grow(&mut self, part: &[u8]) -> Result<(), TooLong> {
        // A field's name and its colon are not counted by anybody.
        let most = self.limit.saturating_add(16);
        if most.saturating_sub(self.line.len()) < part.len() {
            return Err(TooLong);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn line(&mut self, mut line: Vec<u8>) -> Result<Option<Event>, TooLong> {
        if !std::mem::replace(&mut self.started, true) && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return Ok(std::mem::take(&mut self.has_data).then_some(event));
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let text = || String::from_utf8_lossy(value).into_owned();
        match name {
            b"data" if !self.has_data => {
                let from = line.len() - value.len();
                self.has_data = true;
                // The line becomes the data: a long message is held once.
                line.drain(..from);
                self.event.data = line;
            }
            b"data" => {
                let size = self.event.data.len().saturating_add(value.len());
                if self.limit < size {
                    return Err(TooLong);
                }
                self.event.data.push(b'\n');
                self.event.data.extend_from_slice(value);
            }
            b"event" => self.event.kind = Some(text()),
            b"id" if !value.contains(&0) && value.len() <= 1024 => self.last_id = Some(text()),
            b"retry" => self.retry = text().parse().ok().or(self.retry),
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_in_pieces_of_any_size() {
        let stream = "\u{feff}: hello\r\nid: 7\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\nretry: 250\n\
                      event: ping\ndata:x\n\nid\ndata\r\rdata: lost";
        for piece in 1..=stream.len() {
            let mut events = Events::new(100);
            let mut found = Vec::new();
            for chunk in stream.as_bytes().chunks(piece) {
                events.feed(chunk, |event| found.push(event)).unwrap();
            }
            let event = |kind: Option<&str>, data: &[u8]| Event {
                kind: kind.map(str::to_owned),
                data: data.to_vec(),
            };
            let expected =
                [event(None, b"{\"a\":\n1}"), event(Some("ping"), b"x"), event(None, b"")];
            assert_eq!(found, expected, "in pieces of {piece}");
            assert_eq!((events.last_id.as_deref(), events.retry), (Some(""), Some(250)));
        }
    }

    #[test]
    fn an_event_over_the_limit_is_refused_whichever_way_it_grows() {
        for line in ["data: 0123456789", "x: 0123456789"] {
            let mut events = Events::new(64);
            let stream = line.repeat(20);
            assert_eq!(events.feed(stream.as_bytes(), |_| ()), Err(TooLong), "one line");
        }
        let mut events = Events::new(64);
        let stream = "data: 0123456789\n".repeat(20);
        assert_eq!(events.feed(stream.as_bytes(), |_| ()), Err(TooLong), "many lines");
    }
}
