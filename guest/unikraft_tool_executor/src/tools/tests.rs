//! What a connection promises.
