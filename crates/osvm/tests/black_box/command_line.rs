//! Flags and commands, before anything is done.

use crate::support::Home;
use snapbox::str;

#[test]
fn without_a_command_help_is_shown_and_it_counts_as_wrong_use() {
    Home::without_images().osvm([]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
Runs every tool call of an AI agent in its own throw-away virtual machine

Usage: osvm [OPTIONS] <COMMAND>

Commands:
  agent        Talk to the agent, which acts only through isolated calls
  ask          Have the agent answer one prompt
  plan         Show what the agent would call first for a prompt, and call nothing
  mcp          Call MCP tools, each call in a virtual machine of its own
  client       Write osvm into the files of MCP clients
  image        Build and keep images of MCP servers for Linux microVMs
  snapshot     Look at and remove the saved servers that calls get copies of
  workspace    Look at and apply what calls changed in copies of a workspace
  daemon       Keep virtual machines ready for calls of other processes
  config       Look at and check the isolation config
  policy       Check and try the rules about calls
  approvals    Answer calls that wait for a person
  receipts     Look at what calls left behind, and check that it is all there
  secret       Keep secrets that the broker sends for tools, and that no tool sees
  doctor       Check whether calls can run on this host, and say how to fix what is wrong
  ps           List the virtual machines that run now
  status       Print the status line
  logs         Show what a virtual machine wrote to its console
  completions  Print what completes command lines in a shell
  man          Print the manual page

Options:
  -h, --help     Print help (see more with '--help')
  -V, --version  Print version

Global options:
  -v, --verbose...           Log more: -v what a call does and when, -vv details
  -q, --quiet                Log nothing and say only why something failed
      --log-format <FORMAT>  How log lines look on stderr [default: text] [possible values: text, json]
      --config <FILE>        The isolation config to read [default: OSVM_CONFIG, else as `osvm config path` says]
      --policy <FILE>        The Cedar rules to ask [default: as the config says, else `policy.cedar` beside it]
      --backend <NAME>       What boots the virtual machines [default: OSVM_BACKEND, else as the config says] [possible values: auto, kvm, qemu, firecracker]
      --color <WHEN>         When to use colors; NO_COLOR is respected [default: auto] [possible values: auto, always, never]

On a terminal, `osvm` without a command starts the agent.

Exit codes: 0 it worked, 1 the tool reported an error, 2 osvm could not do it.

"#]]);
}

#[test]
fn version_is_one_line() {
    let home = Home::without_images();
    home.osvm(["--version"]).assert().code(0).stdout_eq("osvm [VERSION]\n").stderr_eq("");
}

#[test]
fn an_unknown_command_names_the_nearest() {
    let home = Home::without_images();
    home.osvm(["docter"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: unrecognized subcommand 'docter'

  tip: a similar subcommand exists: 'doctor'

Usage: osvm [OPTIONS] <COMMAND>

For more information, try '--help'.

"#]]);
}

#[test]
fn help_of_a_call_shows_how_to_call() {
    let home = Home::without_images();
    home.osvm(["mcp", "call-tool", "--help"])
        .assert()
        .code(0)
        .stdout_eq(str![[r#"
Call one tool: boot a virtual machine, call, destroy it

Usage: osvm mcp call-tool [OPTIONS] [SERVER] [TOOL] [ARGUMENTS]

Arguments:
  [SERVER]
          The MCP server the tool belongs to

  [TOOL]
          The tool's name

  [ARGUMENTS]
          The arguments: a JSON object, `@FILE`, or `-` for stdin [default: {}]

Options:
      --json
          Print an envelope: result or error, and how the call was isolated

      --batch <FILE>
          Make the calls of a file (`-` for stdin), one a line, and print an envelope a line: {"server": ..., "tool": ..., "arguments": {...}}

      --jobs <N>
          Calls of a batch to run at once
          
          [default: 1]

      --reuse
          Let one virtual machine serve consecutive calls of a batch to one server

      --daemon
          Have the daemon run it, and start one if there is none [default: if the config has a pool]

      --no-daemon
          Run it in this process, whatever the config says

  -h, --help
          Print help (see a summary with '-h')

Global options:
  -v, --verbose...
          Log more: -v what a call does and when, -vv details

  -q, --quiet
          Log nothing and say only why something failed

      --log-format <FORMAT>
          How log lines look on stderr

          Possible values:
          - text: One line for people
          - json: One JSON object per line
          
          [default: text]

      --config <FILE>
          The isolation config to read [default: OSVM_CONFIG, else as `osvm config path` says]

      --policy <FILE>
          The Cedar rules to ask [default: as the config says, else `policy.cedar` beside it]

      --backend <NAME>
          What boots the virtual machines [default: OSVM_BACKEND, else as the config says]

          Possible values:
          - auto:        The best one that works on this host
          - kvm:         The VMM inside osvm, on `/dev/kvm`
          - qemu:        QEMU as a child process
          - firecracker: Firecracker as a child process

      --color <WHEN>
          When to use colors; NO_COLOR is respected

          Possible values:
          - auto:   On a terminal, unless `NO_COLOR` is set
          - always: Always
          - never:  Never
          
          [default: auto]

Examples:
  osvm mcp call-tool system echo '{"text":"hi"}'
  osvm mcp call-tool solana decode_transaction @transaction.json
  echo '{"text":"hi"}' | osvm mcp call-tool system echo - --json
  osvm mcp call-tool --batch calls.jsonl --jobs 8

Exit codes: 0 the tool answered, 1 the tool reported an error, 2 osvm could not run it.

"#]])
        .stderr_eq("");
}

#[test]
fn a_backend_of_another_build_is_told_from_a_misspelt_one() {
    let home = Home::without_images();
    home.osvm(["--backend", "qemuu", "ps"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: invalid value 'qemuu' for '--backend <NAME>'
  [possible values: auto, kvm, qemu, firecracker]

  tip: a similar value exists: 'qemu'

For more information, try '--help'.

"#]]);
}

#[test]
fn a_backend_in_the_environment_is_read_like_the_flag() {
    let home = Home::without_images();
    let ps = home.osvm(["ps"]).env("OSVM_BACKEND", "qemuu");
    ps.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: `OSVM_BACKEND` names no backend: `qemuu`

hint: known are `auto`, `kvm`, `qemu`, `firecracker`

"#]]);
    home.osvm(["ps"]).env("OSVM_BACKEND", "").assert().code(0);
}

#[test]
fn nothing_is_written_into_the_home_directory_by_asking_for_help() {
    let home = Home::without_images();
    home.osvm(["--help"]).assert().code(0);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "only `run` was there");
}
