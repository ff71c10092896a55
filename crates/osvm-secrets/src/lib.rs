//! Secrets that stay on the host: kept encrypted, handed to the broker, never to a guest.
//!
//! ```text
//! DIR/secrets        magic, nonce, XChaCha20-Poly1305 of all names and values
//! DIR/secrets.lock   one writer at a time
//! key                in the OS keyring where there is one, else DIR/secrets.key
//! ```
//!
//! # Invariants
//!
//! - A value is in memory only as a [`SecretValue`] or in a buffer that is wiped, and in no `Debug`,
//!   message or command line.
//! - Files are replaced as a whole, so a crash leaves the old ones or the new ones.
//! - A file that another user owns, or that others may read, is not used.
//! - Any bytes in the files are secrets or an error.
//!
//! # Not here
//!
//! - Who may use which secret: the isolation config says so, the broker does it.
//! - Protection from the user's own account and from root. What the key adds is that the secrets file
//!   alone, in a backup or a picture of the disk, tells nothing.

mod error;
mod file;
mod key;
mod keyring;
mod sealed;
mod store;
mod value;

pub use error::SecretsError;
pub use keyring::Keyring;
pub use store::Secrets;
pub use value::{BadName, BadValue, MAX_VALUE, SecretName, SecretValue};
