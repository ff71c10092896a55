//! The full screen in a true terminal, driven through tmux as a person would.

use crate::agent::{check_nothing_runs, osvm};
use crate::agent_model::{Endpoint, Reply, Shape};
use crate::support::{Home, eventually};
use serde_json::json;
use std::path::PathBuf;
use std::process::Command;

/// A terminal of 80 by 24 with osvm in it.
struct Tmux {
    socket: PathBuf,
}

impl Tmux {
    /// Starts osvm; `None`, said on stderr, where there is no tmux.
    fn start(home: &Home, endpoint: &Endpoint, args: &[&str]) -> Option<Self> {
        Self::start_with(home, endpoint, args, true)
    }

    /// The same, with a model or without one.
    fn start_with(home: &Home, endpoint: &Endpoint, args: &[&str], model: bool) -> Option<Self> {
        if !Command::new("tmux").arg("-V").output().is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: tmux is missing: `sudo apt-get install tmux`");
            let required = std::env::var("OSVM_REQUIRE").unwrap_or_default();
            assert!(!required.contains("tmux"), "OSVM_REQUIRE names tmux");
            return None;
        }
        let tmux = Self { socket: home.path().join("tmux") };
        let osvm = osvm(home, endpoint, args);
        let mut command = tmux.command();
        command.args(["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24"]);
        command.args(["env", "-i"]);
        let envs = osvm.get_envs().filter(|(name, _)| {
            model || !name.to_str().is_some_and(|name| name.starts_with("OSVM_AI_"))
        });
        for (name, value) in envs {
            command.arg(format!("{}={}", name.to_str()?, value?.to_str()?));
        }
        command.arg("TERM=screen").arg("LANG=C.UTF-8");
        command.arg("sh").arg("-c").arg("\"$0\" \"$@\"; echo \"ended with $?\"; cat");
        command.arg(osvm.get_program()).args(osvm.get_args());
        assert!(command.status().unwrap().success());
        Some(tmux)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.env_remove("TMUX").env("LANG", "C.UTF-8").args(["-u", "-S"]).arg(&self.socket);
        command
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.command().args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn keys(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    /// Types a line.
    fn line(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
        self.keys(&["Enter"]);
    }

    fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    /// Waits until the screen has these words.
    #[track_caller]
    fn wait(&self, words: &str) -> String {
        let began = std::time::Instant::now();
        loop {
            let screen = self.screen();
            if screen.contains(words) {
                return screen;
            }
            assert!(began.elapsed().as_secs() < 60, "no `{words}` on the screen:\n{screen}");
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

/// A home in which `system/echo` needs an approval.
pub(crate) fn asking_home() -> Home {
    let home = Home::new();
    home.write_config("{}");
    let rules = "permit(principal, action, resource);\n\
        @approval(\"it echoes\")\n\
        permit(principal, action, resource == Tool::\"system/echo\");\n";
    std::fs::write(home.config_path().with_file_name("policy.cedar"), rules).unwrap();
    home
}

#[test]
fn asked_watched_approved_denied_resized_and_left() {
    let home = asking_home();
    let shape = Shape::OpenAi;
    let calls = |text| shape.calls(&[("x", "system__echo", json!({"text": text}))]);
    let script =
        vec![calls("first"), shape.says("done once"), calls("second"), shape.says("denied then")];
    let endpoint = Endpoint::start(shape, script);
    let Some(tmux) = Tmux::start(&home, &endpoint, &["agent", "--direct"]) else { return };
    tmux.wait("the agent runs on this host, outside of a microVM; model scripted");
    tmux.line("say first");
    let question = tmux.wait("[y] yes   [n] no   [a] always in this session");
    assert!(question.contains("`system/echo` needs your approval"), "{question}");
    assert!(question.contains("… system__echo (unikernel"), "{question}");
    assert!(question.contains("working "), "{question}");
    tmux.keys(&["y"]);
    let done = tmux.wait("done once");
    assert!(done.contains("✓ system__echo: unikernel, CID 200, "), "{done}");
    tmux.line("say second");
    tmux.wait("[y] yes");
    tmux.keys(&["n"]);
    let denied = tmux.wait("denied then");
    assert!(denied.contains("✗ system__echo: "), "{denied}");
    tmux.run(&["resize-window", "-x", "40", "-y", "12"]);
    eventually("the smaller screen", || {
        let screen = tmux.screen();
        (screen.lines().count() <= 12 && screen.contains("denied then")).then_some(())
    });
    tmux.line("/exit");
    tmux.wait("ended with 0");
    check_nothing_runs_but_tmux(&home, &tmux);
}

fn check_nothing_runs_but_tmux(home: &Home, tmux: &Tmux) {
    tmux.run(&["kill-server"]);
    check_nothing_runs(home);
}

#[test]
fn the_screen_is_what_it_was_frozen_as() {
    let home = Home::new();
    let shape = Shape::OpenAi;
    let script = vec![
        shape.calls(&[("x", "system__echo", json!({"text": "hello"}))]),
        shape.says("It said hello."),
    ];
    let endpoint = Endpoint::start(shape, script);
    let Some(tmux) = Tmux::start(&home, &endpoint, &["agent", "--direct"]) else { return };
    tmux.wait("/help");
    tmux.line("say hello");
    tmux.wait("It said hello.");
    tmux.wait("── /help");
    let screen = tmux.wait("OSVM: 0μVMs 0uK");
    snapbox::assert_data_eq!(
        screen,
        snapbox::str![[r#"
OSVM: 0μVMs 0uK • agent(host:run) osvm-mcp(uK:cfg) +2 • net:none • up:[..]s














· the agent runs on this host, outside of a microVM; model scripted
› say hello

  → system__echo {"text":"hello"} (unikernel)
  ✓ system__echo: unikernel, CID 200, [..] ms, 16 bytes
  It said hello.

── /help ───────────────────────────────────────────────────────────────────────
›

"#]]
    );
}

#[test]
fn ctrl_c_cancels_first_and_leaves_then() {
    let home = Home::new();
    let endpoint = Endpoint::start(Shape::OpenAi, vec![Reply::Silence]);
    let Some(tmux) = Tmux::start(&home, &endpoint, &["agent", "--direct"]) else { return };
    tmux.wait("/help");
    tmux.line("think");
    tmux.wait("Ctrl-C cancels");
    eventually("the model to be asked", || (!endpoint.asked().is_empty()).then_some(()));
    tmux.keys(&["C-c"]);
    tmux.wait("cancelled; its virtual machines are destroyed");
    tmux.keys(&["C-c"]);
    tmux.wait("ended with 0");
    check_nothing_runs_but_tmux(&home, &tmux);
}

#[test]
fn a_terminal_that_is_closed_leaves_nothing_behind() {
    let home = Home::with_hostile_image();
    home.use_hostile("spin", 60);
    let calls = Shape::OpenAi.calls(&[("x", "system__echo", json!({"text": "hi"}))]);
    let endpoint = Endpoint::start(Shape::OpenAi, vec![calls]);
    let Some(tmux) = Tmux::start(&home, &endpoint, &["agent", "--direct"]) else { return };
    tmux.wait("/help");
    tmux.line("spin");
    tmux.wait("(unikernel CID 200)");
    check_nothing_runs_but_tmux(&home, &tmux);
}

#[test]
fn without_arguments_a_terminal_gets_the_agent() {
    let home = Home::new();
    let endpoint = Endpoint::start(Shape::OpenAi, vec![Reply::Silence]);
    let Some(tmux) = Tmux::start(&home, &endpoint, &["--direct"]) else { return };
    tmux.wait("the agent runs on this host");
    tmux.keys(&["C-d"]);
    tmux.wait("ended with 0");
    let home = Home::new();
    let Some(tmux) = Tmux::start(&home, &endpoint, &[]) else { return };
    tmux.wait("µVM-1 cannot start, and the agent runs nowhere else");
    tmux.wait("ended with 2");
}

#[test]
fn in_lines_the_words_of_a_model_are_shown_as_they_come() {
    let home = Home::new();
    let shape = Shape::OpenAi;
    let Reply::Stream(whole) = shape.says("the first words") else { unreachable!() };
    let begin = whole[..whole.find("\n\n").unwrap() + 2].to_owned();
    let endpoint = Endpoint::start(shape, vec![Reply::Begin(begin), shape.says("all of it")]);
    let Some(tmux) = Tmux::start(&home, &endpoint, &["agent", "--direct", "--plain"]) else {
        return;
    };
    tmux.wait("›");
    tmux.line("go on");
    tmux.wait("the first words");
    tmux.keys(&["C-c"]);
    tmux.wait("cancelled; its virtual machines are destroyed");
    tmux.line("and now");
    let screen = tmux.wait("all of it");
    assert_eq!(screen.matches("all of it").count(), 1, "{screen}");
    // The shell around it has heard Ctrl-C too, and ends with it.
    tmux.line("/exit");
    check_nothing_runs_but_tmux(&home, &tmux);
}

#[test]
fn a_binary_paste_is_text_without_its_control_characters() {
    let home = Home::new();
    let endpoint = Endpoint::start(Shape::OpenAi, vec![Shape::OpenAi.says("got it")]);
    let Some(tmux) = Tmux::start(&home, &endpoint, &["agent", "--direct"]) else { return };
    tmux.wait("/help");
    let mut bytes: Vec<u8> = (1..=255).filter(|byte| *byte != 0x1b).collect();
    bytes.extend(b"/exit\nend of paste");
    let file = home.write("paste", bytes);
    tmux.run(&["load-buffer", file.to_str().unwrap()]);
    tmux.run(&["paste-buffer", "-p", "-r"]);
    tmux.wait("end of paste");
    assert!(endpoint.asked().is_empty(), "nothing is sent, and no command is run, by a paste");
    tmux.keys(&["Enter"]);
    tmux.wait("got it");
    let asked = endpoint.asked()[0].to_string();
    assert!(!asked.contains("\\u0007") && asked.contains("end of paste"), "{asked}");
    tmux.keys(&["C-d"]);
    tmux.wait("ended with 0");
}

#[test]
fn without_a_model_a_plan_is_shown_and_asks_for_yes_or_no() {
    let home = Home::new();
    let endpoint = Endpoint::start(Shape::OpenAi, vec![Reply::Silence]);
    let Some(tmux) = Tmux::start_with(&home, &endpoint, &["agent", "--direct"], false) else {
        return;
    };
    tmux.wait("`/model` says how to choose a");
    tmux.line("echo \"good morning\"");
    let question = tmux.wait("[y] yes   [n] no");
    assert!(question.contains("run this plan?") && !question.contains("always"), "{question}");
    tmux.keys(&["a"]);
    tmux.keys(&["y"]);
    tmux.wait("✓ system__echo: unikernel, CID 200, ");
    tmux.wait("── /help");
    tmux.line("/model");
    tmux.wait("OSVM_AI_URL=http://127.0.0.1:11434/v1 OSVM_AI_MODEL=qwen3");
    tmux.line("/exit");
    tmux.wait("`osvm agent --resume ");
    assert!(endpoint.asked().is_empty());
    let sessions = home.osvm(["agent", "sessions"]).output().unwrap();
    let sessions = String::from_utf8(sessions.stdout).unwrap();
    assert!(sessions.contains("echo \"good morning\""), "{sessions}");
}

#[test]
fn a_paste_keeps_its_lines_and_commands_show_what_they_say() {
    let home = Home::new();
    let endpoint = Endpoint::start(Shape::OpenAi, vec![Shape::OpenAi.says("two lines")]);
    let Some(tmux) = Tmux::start(&home, &endpoint, &["agent", "--direct"]) else { return };
    tmux.wait("/help");
    tmux.run(&["set-buffer", "one\ntwo \u{7} three"]);
    tmux.run(&["paste-buffer", "-p"]);
    tmux.wait("control characters were left out");
    tmux.keys(&["Enter"]);
    tmux.wait("two lines");
    assert!(endpoint.asked()[0].to_string().contains("one\\ntwo  three"));
    tmux.line("/model");
    tmux.wait("scripted (openai, 127.0.0.1): 100 tokens read, 10 written");
    tmux.line("/tools");
    tmux.wait("system__guest_info");
    tmux.line("/call system echo {\"text\":\"by hand\"}");
    tmux.wait("{\"text\":\"by hand\"}");
}
