//! What signatures promise beyond the vectors, which are in `tests/black_box`.

use super::*;
use curve25519_dalek::constants::EIGHT_TORSION;
use proptest::prelude::*;

#[test]
fn the_points_of_small_order_are_the_eight_torsion_points() {
    for point in EIGHT_TORSION {
        assert!(SMALL_ORDER.contains(&point.compress().0));
    }
    for (at, point) in SMALL_ORDER.iter().enumerate() {
        assert_eq!(SMALL_ORDER.iter().position(|other| other == point), Some(at));
    }
}

#[test]
fn a_signature_is_read_from_both_encodings() {
    let bytes: [u8; 64] = core::array::from_fn(|at| u8::try_from(at * 3).unwrap());
    let base64 = super::super::encoding::base64(&bytes);
    assert_eq!(Signature::parse(&base64), Some(Signature(bytes)));
    assert_eq!(Signature::parse(base64.trim_end_matches('=')), Some(Signature(bytes)));
    assert_eq!(Signature::parse(&base58::encode_64(&bytes)), Some(Signature(bytes)));
    assert_eq!(Signature::parse(""), None);
}

proptest! {
    /// `verify_strict` is what Solana calls.
    #[test]
    fn the_verdict_is_that_of_verify_strict(key: [u8; 32], message: Vec<u8>, low: [u8; 32], high: [u8; 32]) {
        let signature = Signature([low, high].concat().try_into().unwrap());
        let strict = VerifyingKey::from_bytes(&key)
            .is_ok_and(|key| key.verify_strict(&message, &Dalek::from_bytes(&signature.0)).is_ok());
        assert_eq!(verify(&key, &message, &signature).is_ok(), strict);
    }

    #[test]
    fn the_verdict_on_changed_signatures_is_that_of_verify_strict(
        seed: [u8; 32], message: Vec<u8>, bit in 0..1024_usize,
    ) {
        use ed25519_dalek::{Signer, SigningKey};
        let signer = SigningKey::from_bytes(&seed);
        let key = signer.verifying_key();
        let mut bytes = signer.sign(&message).to_bytes();
        assert!(verify(key.as_bytes(), &message, &Signature(bytes)).is_ok());
        bytes[bit / 8 % 64] ^= 1 << (bit % 8);
        let strict = key.verify_strict(&message, &Dalek::from_bytes(&bytes)).is_ok();
        assert_eq!(verify(key.as_bytes(), &message, &Signature(bytes)).is_ok(), strict);
    }

    #[test]
    fn any_text_is_a_signature_or_none(text in "\\PC{0,100}") {
        let _ = Signature::parse(&text);
    }
}
