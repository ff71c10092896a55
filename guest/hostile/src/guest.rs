//! Which behaviour has which name.

use crate::{processor, rings, stream, vsock};
use osvm_kernel::{Guest, die, guest_main, image_parts, serve};

guest_main!(run);
image_parts!();

/// The variable of the boot page that chooses.
const VARIABLE: &str = "HOSTILE";

/// What a guest does, until it ends or is ended.
pub(crate) type Behaviour = fn(Guest) -> !;

/// Every name that `HOSTILE` may have.
///
/// At boot, before there is a vsock:
///
/// | name | what it does |
/// |---|---|
/// | `spin_at_boot` | burns its processor |
/// | `triple_fault` | ends by a triple fault |
/// | `panic` | leaves last words that say "as asked" |
/// | `stack_overflow` | recurses into the guard page |
/// | `null_read` | reads address 0 |
/// | `write_text` | writes to its own code |
/// | `execute_data` | runs a byte of its data |
/// | `outside_memory` | reads memory behind the end of its RAM |
/// | `outside_memory_write` | writes there |
/// | `flood_console` | writes to its console without end |
/// | `never_accept` | waits, and never looks at its device |
///
/// With its device:
///
/// | name | what is wrong |
/// |---|---|
/// | `rubbish_rings` | a chain begins outside of the descriptor table |
/// | `rings_loop` | a chain of two descriptors that follow each other |
/// | `rings_next_outside` | a chain goes on outside of the table |
/// | `rings_outside_memory` | a buffer lies outside of guest memory |
/// | `rings_wrapping` | a buffer ends behind the end of the address space |
/// | `rings_huge_length` | a buffer of 4 GiB |
/// | `rings_index_jump` | more chains are offered than the queue holds |
/// | `rings_wrong_direction` | a buffer to be sent is marked as one to be written |
/// | `rings_misplaced` | the rings themselves lie outside of guest memory |
/// | `rings_short_header` | a packet shorter than its header |
/// | `rings_truncated` | a packet announces more than its buffers hold |
///
/// With a connection it has accepted:
///
/// | name | what it does |
/// |---|---|
/// | `spin` | accepts, then burns its processor |
/// | `hang_up` | takes the request and closes the connection |
/// | `announce_4gib` | announces a frame of 4 GiB |
/// | `die_mid_frame` | triple-faults in the middle of its answer |
/// | `flood` | sends without end |
/// | `wrong_id` | answers another request than the one it got |
/// | `rubbish_json` | answers with a frame that is no JSON |
/// | `vsock_wrong_cid` | answers in the name of another guest |
/// | `vsock_unknown_op` | sends an operation that does not exist |
/// | `vsock_credit_lie` | claims to have read what was never sent |
/// | `vsock_ignore_credit` | sends more than the host has room for |
/// | `vsock_stray` | sends data on connections that do not exist |
pub(crate) const BEHAVIOURS: &[(&str, Behaviour)] = &[
    ("spin_at_boot", processor::spin_at_boot),
    ("triple_fault", processor::triple_fault),
    ("panic", processor::panic),
    ("stack_overflow", processor::stack_overflow),
    ("null_read", processor::null_read),
    ("write_text", processor::write_text),
    ("execute_data", processor::execute_data),
    ("outside_memory", processor::outside_memory),
    ("outside_memory_write", processor::outside_memory_write),
    ("flood_console", processor::flood_console),
    ("never_accept", processor::never_accept),
    ("rubbish_rings", rings::index_outside),
    ("rings_loop", rings::endless),
    ("rings_next_outside", rings::next_outside),
    ("rings_outside_memory", rings::outside_memory),
    ("rings_wrapping", rings::wrapping),
    ("rings_huge_length", rings::huge_length),
    ("rings_index_jump", rings::index_jump),
    ("rings_wrong_direction", rings::wrong_direction),
    ("rings_misplaced", rings::misplaced),
    ("rings_short_header", rings::short_header),
    ("rings_truncated", rings::truncated),
    ("spin", stream::spin),
    ("hang_up", stream::hang_up),
    ("announce_4gib", stream::announce_4gib),
    ("die_mid_frame", stream::die_mid_frame),
    ("flood", stream::flood),
    ("wrong_id", stream::wrong_id),
    ("rubbish_json", stream::rubbish_json),
    ("vsock_wrong_cid", vsock::wrong_cid),
    ("vsock_unknown_op", vsock::unknown_op),
    ("vsock_credit_lie", vsock::credit_lie),
    ("vsock_ignore_credit", vsock::ignore_credit),
    ("vsock_stray", vsock::stray),
];

fn run(guest: Guest) -> ! {
    let wanted = guest.page.env.iter().find(|(name, _)| name == VARIABLE);
    let Some((_, wanted)) = wanted else {
        serve(guest, env!("OSVM_IMAGE_NAME"), env!("OSVM_BUILD_ID"))
    };
    match BEHAVIOURS.iter().find(|(name, _)| name == wanted) {
        Some((_, behave)) => behave(guest),
        None => die(format_args!("there is no behaviour `{wanted}`")),
    }
}
