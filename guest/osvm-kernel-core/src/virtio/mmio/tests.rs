//! Tests to come with the fake device.
