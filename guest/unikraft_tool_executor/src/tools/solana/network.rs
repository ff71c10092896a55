//! The tools of server `solana` that ask a node of its network.

use super::SERVER;
use crate::solana::address::Address;
use crate::solana::encoding::Packed;
use crate::solana::signature::Signature;
use crate::tool::Tool;
use crate::tools::network::{
    AtMost, Between, Commitment, DESTROYS, READS, WRITES, arguments, refuse,
};
use alloc::string::String;
use alloc::vec::Vec;
use osvm_protocol::tool::Annotations;

/// Most accounts a node answers for at once.
const MAX_ACCOUNTS: usize = 100;
/// Most signatures a node lists at once.
const MAX_SIGNATURES: u64 = 1_000;
/// Longest an account's data can be, in bytes.
const MAX_DATA: u64 = 10 * 1024 * 1024;

arguments! {
    OnlyCommitment { commitment: Option<Commitment> }
    ByAddress { address: Address, commitment: Option<Commitment> }
    ByMint { mint: Address, commitment: Option<Commitment> }
    BySignature { signature: Signature, commitment: Option<Commitment> }
    TokenAccounts { owner: Address, mint: Option<Address>, program_id: Option<Address>, commitment: Option<Commitment> }
    Signatures { address: Address, limit: Option<Between<1, MAX_SIGNATURES>>, before: Option<Signature>, until: Option<Signature>, commitment: Option<Commitment> }
    Block { slot: u64, transaction_details: Option<Details>, commitment: Option<Commitment> }
    RentExemption { size_bytes: Between<0, MAX_DATA>, commitment: Option<Commitment> }
    ManyAccounts { addresses: AtMost<Address, MAX_ACCOUNTS>, commitment: Option<Commitment> }
    ProgramAccounts { program_id: Address, filters: Option<Vec<Filter>>, limit: Option<Between<1, MAX_SIGNATURES>>, commitment: Option<Commitment> }
    Compare { offset: u64, bytes: String }
    Simulate { transaction: String, encoding: Option<Packed>, sig_verify: Option<bool>, replace_recent_blockhash: Option<bool>, commitment: Option<Commitment> }
    Send { transaction: String, encoding: Option<Packed>, skip_preflight: Option<bool>, max_retries: Option<u64>, preflight_commitment: Option<Commitment> }
    Airdrop { address: Address, lamports: Between<1, { u64::MAX }>, commitment: Option<Commitment> }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Details {
    Full,
    Accounts,
    Signatures,
    None,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "checked now, used once a host grants the network")]
enum Filter {
    DataSize(u64),
    Memcmp(Compare),
}

/// A tool of this file.
const fn tool(
    name: &'static str,
    description: &'static str,
    annotations: Annotations,
    input: &'static str,
    output: &'static str,
    run: crate::tool::Run,
) -> Tool {
    Tool { server: SERVER, name, description, input, output, annotations, needs_network: true, run }
}

/// The schema of an object. Optional members are listed after `;`.
macro_rules! object {
    ($($properties:literal),+ ; required $required:literal) => {
        concat!(
            r#"{"type":"object","properties":{"#, $($properties,)+ r#"},"required":"#, $required,
            r#","additionalProperties":false}"#
        )
    };
}

/// Stands in most inputs.
macro_rules! with_commitment {
    ($($properties:literal),* ; required $required:literal) => {
        concat!(
            r#"{"type":"object","properties":{"#, $($properties, ",",)*
            r#""commitment":{"type":"string","enum":["processed","confirmed","finalized"],"description":"finalized when not given"}},"required":"#,
            $required, r#","additionalProperties":false}"#
        )
    };
}

pub(in crate::tools) const GET_BALANCE: Tool = tool(
    "get_balance",
    "Asks for the balance of an account, in lamports and in SOL.",
    READS,
    with_commitment!(r#""address":{"type":"string"}"#; required r#"["address"]"#),
    BALANCE,
    refuse::<ByAddress>,
);

/// Also what `get_solana_balance` answers.
pub(in crate::tools) const BALANCE: &str = object!(
    r#""balance":{"type":"integer","minimum":0,"description":"lamports"},"#,
    r#""decimals":{"type":"integer","const":9},"#,
    r#""sol":{"type":"string","description":"the balance in SOL, exactly"},"#,
    r#""slot":{"type":"integer","minimum":0}"#;
    required r#"["balance","decimals","sol","slot"]"#
);

pub(in crate::tools) const GET_TRANSACTION: Tool = tool(
    "get_transaction",
    "Asks for a transaction by its signature, decodes it and says what came of it.",
    READS,
    BY_SIGNATURE,
    TRANSACTION,
    refuse::<BySignature>,
);

/// Also what `osvm-mcp`'s tool of this name takes.
pub(in crate::tools) const BY_SIGNATURE: &str =
    with_commitment!(r#""signature":{"type":"string"}"#; required r#"["signature"]"#);

/// Also what `osvm-mcp`'s tool of this name answers.
pub(in crate::tools) const TRANSACTION: &str = object!(
    r#""slot":{"type":"integer","minimum":0},"#,
    r#""block_time":{"type":["integer","null"],"description":"seconds since 1970"},"#,
    r#""error":{"description":"null when it succeeded"},"#,
    r#""fee":{"type":"integer","minimum":0,"description":"lamports"},"#,
    r#""logs":{"type":"array","items":{"type":"string"}},"#,
    r#""transaction":{"type":"object","description":"as from decode_transaction"}"#;
    required r#"["slot","block_time","error","fee","logs","transaction"]"#
);

/// What is known of one account.
macro_rules! account {
    () => {
        r#"{"type":["object","null"],"description":"null when there is none","properties":{"address":{"type":"string"},"lamports":{"type":"integer","minimum":0},"owner":{"type":"string"},"executable":{"type":"boolean"},"size_bytes":{"type":"integer","minimum":0},"data_base64":{"type":"string"}},"required":["address","lamports","owner","executable","size_bytes","data_base64"],"additionalProperties":false}"#
    };
}

const ACCOUNTS: &str = concat!(
    r#"{"type":"object","properties":{"slot":{"type":"integer","minimum":0},"accounts":{"type":"array","items":"#,
    account!(),
    r#"}},"required":["slot","accounts"],"additionalProperties":false}"#
);

pub(in crate::tools) const GET_ACCOUNT_INFO: Tool = tool(
    "get_account_info",
    "Asks for an account: lamports, owner and data.",
    READS,
    with_commitment!(r#""address":{"type":"string"}"#; required r#"["address"]"#),
    concat!(
        r#"{"type":"object","properties":{"slot":{"type":"integer","minimum":0},"account":"#,
        account!(),
        r#"},"required":["slot","account"],"additionalProperties":false}"#
    ),
    refuse::<ByAddress>,
);

pub(in crate::tools) const GET_MULTIPLE_ACCOUNTS: Tool = tool(
    "get_multiple_accounts",
    "Asks for up to 100 accounts at once.",
    READS,
    with_commitment!(
        r#""addresses":{"type":"array","maxItems":100,"items":{"type":"string"}}"#;
        required r#"["addresses"]"#
    ),
    ACCOUNTS,
    refuse::<ManyAccounts>,
);

pub(in crate::tools) const GET_PROGRAM_ACCOUNTS: Tool = tool(
    "get_program_accounts",
    "Asks for the accounts a program owns, filtered, up to a limit.",
    READS,
    with_commitment!(
        r#""program_id":{"type":"string"}"#,
        r#""filters":{"type":"array","items":{"type":"object","properties":{"data_size":{"type":"integer","minimum":0},"memcmp":{"type":"object","properties":{"offset":{"type":"integer","minimum":0},"bytes":{"type":"string","description":"base58"}},"required":["offset","bytes"],"additionalProperties":false}},"minProperties":1,"maxProperties":1,"additionalProperties":false}}"#,
        r#""limit":{"type":"integer","minimum":1,"maximum":1000}"#;
        required r#"["program_id"]"#
    ),
    ACCOUNTS,
    refuse::<ProgramAccounts>,
);

pub(in crate::tools) const GET_TOKEN_ACCOUNTS: Tool = tool(
    "get_token_accounts",
    "Asks for the token accounts of an owner, of one mint or of one token program.",
    READS,
    with_commitment!(
        r#""owner":{"type":"string"}"#,
        r#""mint":{"type":"string"}"#,
        r#""program_id":{"type":"string","description":"SPL Token when neither is given"}"#;
        required r#"["owner"]"#
    ),
    object!(
        r#""slot":{"type":"integer","minimum":0},"#,
        r#""accounts":{"type":"array","items":{"type":"object","properties":{"address":{"type":"string"},"mint":{"type":"string"},"amount":{"type":"string"},"decimals":{"type":"integer"},"state":{"type":"string"}},"required":["address","mint","amount","decimals","state"],"additionalProperties":false}}"#;
        required r#"["slot","accounts"]"#
    ),
    refuse::<TokenAccounts>,
);

pub(in crate::tools) const GET_TOKEN_SUPPLY: Tool = tool(
    "get_token_supply",
    "Asks how many tokens of a mint there are.",
    READS,
    with_commitment!(r#""mint":{"type":"string"}"#; required r#"["mint"]"#),
    object!(
        r#""slot":{"type":"integer","minimum":0},"#,
        r#""amount":{"type":"string","description":"in the smallest unit"},"#,
        r#""decimals":{"type":"integer"}"#;
        required r#"["slot","amount","decimals"]"#
    ),
    refuse::<ByMint>,
);

pub(in crate::tools) const GET_SIGNATURES_FOR_ADDRESS: Tool = tool(
    "get_signatures_for_address",
    "Asks for the transactions that name an address, the newest first.",
    READS,
    with_commitment!(
        r#""address":{"type":"string"}"#,
        r#""limit":{"type":"integer","minimum":1,"maximum":1000}"#,
        r#""before":{"type":"string","description":"a signature: only older ones"}"#,
        r#""until":{"type":"string","description":"a signature: only newer ones"}"#;
        required r#"["address"]"#
    ),
    object!(
        r#""signatures":{"type":"array","items":{"type":"object","properties":{"signature":{"type":"string"},"slot":{"type":"integer","minimum":0},"block_time":{"type":["integer","null"]},"error":{"description":"null when it succeeded"},"memo":{"type":["string","null"]}},"required":["signature","slot","block_time","error","memo"],"additionalProperties":false}}"#;
        required r#"["signatures"]"#
    ),
    refuse::<Signatures>,
);

pub(in crate::tools) const GET_SLOT: Tool = tool(
    "get_slot",
    "Asks for the slot the network is at.",
    READS,
    with_commitment!(; required "[]"),
    object!(r#""slot":{"type":"integer","minimum":0}"#; required r#"["slot"]"#),
    refuse::<OnlyCommitment>,
);

pub(in crate::tools) const GET_BLOCK: Tool = tool(
    "get_block",
    "Asks for the block of a slot.",
    READS,
    with_commitment!(
        r#""slot":{"type":"integer","minimum":0}"#,
        r#""transaction_details":{"type":"string","enum":["full","accounts","signatures","none"],"description":"signatures when not given"}"#;
        required r#"["slot"]"#
    ),
    object!(
        r#""blockhash":{"type":"string"},"previous_blockhash":{"type":"string"},"#,
        r#""parent_slot":{"type":"integer","minimum":0},"#,
        r#""block_height":{"type":["integer","null"]},"block_time":{"type":["integer","null"]},"#,
        r#""signatures":{"type":"array","items":{"type":"string"}},"#,
        r#""transactions":{"type":"array","items":{"type":"object"}}"#;
        required r#"["blockhash","previous_blockhash","parent_slot","block_height","block_time"]"#
    ),
    refuse::<Block>,
);

pub(in crate::tools) const GET_BLOCK_HEIGHT: Tool = tool(
    "get_block_height",
    "Asks how many blocks the network has made.",
    READS,
    with_commitment!(; required "[]"),
    object!(r#""block_height":{"type":"integer","minimum":0}"#; required r#"["block_height"]"#),
    refuse::<OnlyCommitment>,
);

pub(in crate::tools) const GET_EPOCH_INFO: Tool = tool(
    "get_epoch_info",
    "Asks where in which epoch the network is.",
    READS,
    with_commitment!(; required "[]"),
    object!(
        r#""epoch":{"type":"integer","minimum":0},"slot_index":{"type":"integer","minimum":0},"#,
        r#""slots_in_epoch":{"type":"integer","minimum":0},"absolute_slot":{"type":"integer","minimum":0},"#,
        r#""block_height":{"type":"integer","minimum":0},"transaction_count":{"type":["integer","null"]}"#;
        required r#"["epoch","slot_index","slots_in_epoch","absolute_slot","block_height","transaction_count"]"#
    ),
    refuse::<OnlyCommitment>,
);

pub(in crate::tools) const GET_LATEST_BLOCKHASH: Tool = tool(
    "get_latest_blockhash",
    "Asks for a blockhash a new transaction can use, and for how long.",
    READS,
    with_commitment!(; required "[]"),
    object!(
        r#""blockhash":{"type":"string"},"#,
        r#""last_valid_block_height":{"type":"integer","minimum":0},"#,
        r#""slot":{"type":"integer","minimum":0}"#;
        required r#"["blockhash","last_valid_block_height","slot"]"#
    ),
    refuse::<OnlyCommitment>,
);

pub(in crate::tools) const GET_MINIMUM_BALANCE_FOR_RENT_EXEMPTION: Tool = tool(
    "get_minimum_balance_for_rent_exemption",
    "Asks how many lamports an account of a size must hold to stay.",
    READS,
    with_commitment!(
        r#""size_bytes":{"type":"integer","minimum":0,"maximum":10485760}"#;
        required r#"["size_bytes"]"#
    ),
    object!(r#""lamports":{"type":"integer","minimum":0}"#; required r#"["lamports"]"#),
    refuse::<RentExemption>,
);

pub(in crate::tools) const SIMULATE_TRANSACTION: Tool = tool(
    "simulate_transaction",
    "Asks a node what a transaction would do, without sending it.",
    READS,
    with_commitment!(
        r#""transaction":{"type":"string"}"#,
        r#""encoding":{"type":"string","enum":["base58","base64"]}"#,
        r#""sig_verify":{"type":"boolean"}"#,
        r#""replace_recent_blockhash":{"type":"boolean"}"#;
        required r#"["transaction"]"#
    ),
    object!(
        r#""slot":{"type":"integer","minimum":0},"#,
        r#""error":{"description":"null when it would succeed"},"#,
        r#""logs":{"type":"array","items":{"type":"string"}},"#,
        r#""units_consumed":{"type":["integer","null"]}"#;
        required r#"["slot","error","logs","units_consumed"]"#
    ),
    refuse::<Simulate>,
);

pub(in crate::tools) const SEND_TRANSACTION: Tool = tool(
    "send_transaction",
    "Sends a signed transaction. What it does cannot be undone.",
    DESTROYS,
    object!(
        r#""transaction":{"type":"string"},"#,
        r#""encoding":{"type":"string","enum":["base58","base64"]},"#,
        r#""skip_preflight":{"type":"boolean"},"#,
        r#""max_retries":{"type":"integer","minimum":0},"#,
        r#""preflight_commitment":{"type":"string","enum":["processed","confirmed","finalized"]}"#;
        required r#"["transaction"]"#
    ),
    object!(r#""signature":{"type":"string"}"#; required r#"["signature"]"#),
    refuse::<Send>,
);

pub(in crate::tools) const REQUEST_AIRDROP: Tool = tool(
    "request_airdrop",
    "Asks a test network for lamports. The main network has no such thing.",
    WRITES,
    with_commitment!(
        r#""address":{"type":"string"}"#,
        r#""lamports":{"type":"integer","minimum":1}"#;
        required r#"["address","lamports"]"#
    ),
    object!(r#""signature":{"type":"string"}"#; required r#"["signature"]"#),
    refuse::<Airdrop>,
);
