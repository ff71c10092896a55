//! Error codes of the wire.
//!
//! Standard codes are JSON-RPC 2.0's, section 5.1. Ours are positive, from 1000, because MCP
//! reserves the range below -32000. `docs/protocol.md` lists them for users.

/// The payload is not JSON.
pub const PARSE_ERROR: i64 = -32_700;
/// The payload is JSON but not a request.
pub const INVALID_REQUEST: i64 = -32_600;
/// No such method, tool or server.
pub const METHOD_NOT_FOUND: i64 = -32_601;
/// The arguments do not fit the tool's schema.
pub const INVALID_PARAMS: i64 = -32_602;
/// The peer failed for a reason of its own.
pub const INTERNAL_ERROR: i64 = -32_603;

/// The tool ran and says no: the input was understood and is wrong, or the answer is an error.
pub const TOOL_FAILED: i64 = 1000;
/// The tool needs the network and policy does not grant it.
pub const NETWORK_NOT_GRANTED: i64 = 1001;
/// The host does not offer this `host/…` method to this call.
pub const HOST_METHOD_DENIED: i64 = 1002;
/// The answer would be longer than [`crate::frame::MAX_PAYLOAD`].
pub const ANSWER_TOO_LONG: i64 = 1003;
/// No egress rule allows the request, or it leads where none may.
pub const EGRESS_DENIED: i64 = 1004;
/// A rate, or a number of things at once, is used up.
pub const LIMIT_REACHED: i64 = 1005;
/// A body or a file is longer than the call may have.
pub const TOO_LONG: i64 = 1006;
/// The secret that an egress rule names can't be had.
pub const SECRET_MISSING: i64 = 1007;
/// The server could not be reached, or did not speak HTTP.
pub const REQUEST_FAILED: i64 = 1008;
/// No mount covers the path, or it leads out of one.
pub const FILE_DENIED: i64 = 1009;
/// The host's file system refused.
pub const FILE_FAILED: i64 = 1010;
/// The time for a request of the guest ran out.
pub const TIMED_OUT: i64 = 1011;
