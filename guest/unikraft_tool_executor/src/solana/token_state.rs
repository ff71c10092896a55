//! What token programs keep in accounts: token accounts, mints, multisigs, and the list of
//! extensions Token-2022 puts behind the first two.
//!
//! ```text
//! mint        82 bytes ┐
//! account    165 bytes ┴ zeros to 165 ┼ kind: u8 ┼ ( type: u16 ┼ len: u16 ┼ value )* ┤
//! multisig   355 bytes
//! ```

use super::reader::Reader;
use alloc::vec::Vec;
use thiserror::Error;

/// Length of a mint, in bytes.
const MINT_LEN: usize = 82;
/// Length of a token account, in bytes, and where an extended account says what it is.
const ACCOUNT_LEN: usize = 165;
/// Length of a multisig, in bytes. Nothing extended has it.
const MULTISIG_LEN: usize = 355;
/// Signers a multisig has room for.
const MAX_SIGNERS: usize = 11;

/// Most bytes read. Only a mint with long metadata comes near.
pub(crate) const MAX_LEN: usize = 64 * 1024;

type Key = [u8; 32];

/// What the account holds.
#[derive(Debug)]
pub(crate) enum TokenState<'a> {
    /// Tokens of one mint.
    Account(Account<'a>),
    /// A kind of token.
    Mint(Mint<'a>),
    /// An authority of several keys.
    Multisig(Multisig<'a>),
}

/// Tokens of one mint that belong to one owner.
#[derive(Debug)]
pub(crate) struct Account<'a> {
    /// The kind of token.
    pub(crate) mint: &'a Key,
    /// Whose tokens they are.
    pub(crate) owner: &'a Key,
    /// How many, in the mint's smallest unit.
    pub(crate) amount: u64,
    /// Who may move some of them.
    pub(crate) delegate: Option<&'a Key>,
    /// How many the delegate may move.
    pub(crate) delegated_amount: u64,
    /// Whether it may be used.
    pub(crate) state: &'static str,
    /// For wrapped SOL: lamports that pay the rent and are not tokens.
    pub(crate) rent_exempt_reserve: Option<u64>,
    /// Who may close it, if not the owner.
    pub(crate) close_authority: Option<&'a Key>,
    /// What Token-2022 keeps behind it; `None` without the marker of an extended account.
    pub(crate) extensions: Option<Vec<Extension<'a>>>,
}

/// A kind of token.
#[derive(Debug)]
pub(crate) struct Mint<'a> {
    /// Who may make more.
    pub(crate) mint_authority: Option<&'a Key>,
    /// How many there are, in the smallest unit.
    pub(crate) supply: u64,
    /// Digits after the point when people write an amount.
    pub(crate) decimals: u8,
    /// Whether it may be used.
    pub(crate) is_initialized: bool,
    /// Who may freeze accounts.
    pub(crate) freeze_authority: Option<&'a Key>,
    /// What Token-2022 keeps behind it; `None` without the marker of an extended mint.
    pub(crate) extensions: Option<Vec<Extension<'a>>>,
}

/// An authority of several keys.
#[derive(Debug)]
pub(crate) struct Multisig<'a> {
    /// How many must sign.
    pub(crate) m: u8,
    /// Whether it may be used.
    pub(crate) is_initialized: bool,
    /// The keys in use.
    pub(crate) signers: Vec<&'a Key>,
}

/// One extension, not decoded further.
#[derive(Debug)]
pub(crate) struct Extension<'a> {
    /// Its number.
    pub(crate) kind: u16,
    /// Its bytes.
    pub(crate) data: &'a [u8],
}

impl Extension<'_> {
    /// The name Solana's JSON form gives it, if we know it.
    pub(crate) fn name(&self) -> Option<&'static str> {
        EXTENSIONS.get(usize::from(self.kind)).copied()
    }
}

/// The bytes are not the state of a token program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum TokenStateError {
    /// No state has this length.
    #[error(
        "{0} bytes are not a token account ({ACCOUNT_LEN}), a mint ({MINT_LEN}), a multisig ({MULTISIG_LEN}) or one of the first two with extensions (over {ACCOUNT_LEN}, at most {MAX_LEN})"
    )]
    Length(usize),
    /// The byte that says what an extended account is says neither.
    #[error("account type {0} is neither a mint (1) nor a token account (2)")]
    Kind(u8),
    /// A field holds what the program never writes.
    #[error("`{0}` holds a value the token program never writes")]
    Field(&'static str),
    /// An extension is cut off.
    #[error("extension {0} is cut off")]
    Extension(usize),
}

impl<'a> TokenState<'a> {
    /// Reads the whole data of an account.
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self, TokenStateError> {
        let len = data.len();
        match len {
            MINT_LEN => mint(data, None).map(Self::Mint),
            ACCOUNT_LEN => account(data, None).map(Self::Account),
            MULTISIG_LEN => multisig(data).map(Self::Multisig),
            ..=ACCOUNT_LEN => Err(TokenStateError::Length(len)),
            _ if MAX_LEN < len => Err(TokenStateError::Length(len)),
            _ => extended(data),
        }
    }
}

fn extended(data: &[u8]) -> Result<TokenState<'_>, TokenStateError> {
    let mut reader = Reader::new(data);
    let too_short = TokenStateError::Length(data.len());
    let base = reader.take(ACCOUNT_LEN).ok_or(too_short)?;
    let kind = reader.u8().ok_or(too_short)?;
    match kind {
        1 => {
            let (base, padding) = base.split_at_checked(MINT_LEN).ok_or(too_short)?;
            if padding.iter().any(|byte| *byte != 0) {
                return Err(TokenStateError::Field("padding"));
            }
            mint(base, Some(extensions(reader)?)).map(TokenState::Mint)
        }
        2 => account(base, Some(extensions(reader)?)).map(TokenState::Account),
        kind => Err(TokenStateError::Kind(kind)),
    }
}

fn extensions(mut reader: Reader<'_>) -> Result<Vec<Extension<'_>>, TokenStateError> {
    let mut found = Vec::new();
    // Too few bytes for another type are padding, and so is all that follows type 0.
    while let Some(kind) = reader.u16().filter(|kind| *kind != 0) {
        let cut_off = TokenStateError::Extension(found.len());
        let len = reader.u16().ok_or(cut_off)?;
        let data = reader.take(len.into()).ok_or(cut_off)?;
        found.push(Extension { kind, data });
    }
    Ok(found)
}

fn account<'a>(
    data: &'a [u8],
    extensions: Option<Vec<Extension<'a>>>,
) -> Result<Account<'a>, TokenStateError> {
    let mut fields = Fields(Reader::new(data));
    Ok(Account {
        mint: fields.key("mint")?,
        owner: fields.key("owner")?,
        amount: fields.u64("amount")?,
        delegate: fields.optional_key("delegate")?,
        state: match fields.u8("state")? {
            0 => "uninitialized",
            1 => "initialized",
            2 => "frozen",
            _ => return Err(TokenStateError::Field("state")),
        },
        rent_exempt_reserve: fields.optional_u64("is_native")?,
        delegated_amount: fields.u64("delegated_amount")?,
        close_authority: fields.optional_key("close_authority")?,
        extensions,
    })
}

fn mint<'a>(
    data: &'a [u8],
    extensions: Option<Vec<Extension<'a>>>,
) -> Result<Mint<'a>, TokenStateError> {
    let mut fields = Fields(Reader::new(data));
    Ok(Mint {
        mint_authority: fields.optional_key("mint_authority")?,
        supply: fields.u64("supply")?,
        decimals: fields.u8("decimals")?,
        is_initialized: fields.flag("is_initialized")?,
        freeze_authority: fields.optional_key("freeze_authority")?,
        extensions,
    })
}

fn multisig(data: &[u8]) -> Result<Multisig<'_>, TokenStateError> {
    let mut fields = Fields(Reader::new(data));
    let m = fields.u8("m")?;
    let n = usize::from(fields.u8("n")?);
    let is_initialized = fields.flag("is_initialized")?;
    if MAX_SIGNERS < n {
        return Err(TokenStateError::Field("n"));
    }
    let signers = (0..n).map(|_| fields.key("signers")).collect::<Result<_, _>>()?;
    Ok(Multisig { m, is_initialized, signers })
}

/// Reads one field after the other, an error names the field.
struct Fields<'a>(Reader<'a>);

impl<'a> Fields<'a> {
    fn key(&mut self, name: &'static str) -> Result<&'a Key, TokenStateError> {
        self.0.array().ok_or(TokenStateError::Field(name))
    }

    fn u8(&mut self, name: &'static str) -> Result<u8, TokenStateError> {
        self.0.u8().ok_or(TokenStateError::Field(name))
    }

    fn u64(&mut self, name: &'static str) -> Result<u64, TokenStateError> {
        self.0.u64().ok_or(TokenStateError::Field(name))
    }

    fn flag(&mut self, name: &'static str) -> Result<bool, TokenStateError> {
        match self.u8(name)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(TokenStateError::Field(name)),
        }
    }

    /// A tag of four bytes, and a value that is there in any case.
    fn optional<T>(
        &mut self,
        name: &'static str,
        value: impl FnOnce(&mut Self, &'static str) -> Result<T, TokenStateError>,
    ) -> Result<Option<T>, TokenStateError> {
        let tag = self.0.u32();
        let value = value(self, name)?;
        match tag {
            Some(0) => Ok(None),
            Some(1) => Ok(Some(value)),
            _ => Err(TokenStateError::Field(name)),
        }
    }

    fn optional_key(&mut self, name: &'static str) -> Result<Option<&'a Key>, TokenStateError> {
        self.optional(name, Self::key)
    }

    fn optional_u64(&mut self, name: &'static str) -> Result<Option<u64>, TokenStateError> {
        self.optional(name, Self::u64)
    }
}

/// Names by number, as Solana's JSON form writes them.
const EXTENSIONS: [&str; 29] = [
    "uninitialized",
    "transferFeeConfig",
    "transferFeeAmount",
    "mintCloseAuthority",
    "confidentialTransferMint",
    "confidentialTransferAccount",
    "defaultAccountState",
    "immutableOwner",
    "memoTransfer",
    "nonTransferable",
    "interestBearingConfig",
    "cpiGuard",
    "permanentDelegate",
    "nonTransferableAccount",
    "transferHook",
    "transferHookAccount",
    "confidentialTransferFeeConfig",
    "confidentialTransferFeeAmount",
    "metadataPointer",
    "tokenMetadata",
    "groupPointer",
    "tokenGroup",
    "groupMemberPointer",
    "tokenGroupMember",
    "confidentialMintBurn",
    "scaledUiAmountConfig",
    "pausableConfig",
    "pausableAccount",
    "permissionedBurn",
];

#[cfg(test)]
mod tests;
