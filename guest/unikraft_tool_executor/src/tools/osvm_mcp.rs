//! Server `osvm-mcp`: what a wallet's owner asks for.

use super::solana::network::{accounts, transactions};
use crate::json::Array;
use crate::rpc;
use crate::solana::signature;
use crate::tool::{PURE, READS, Tool};

const SERVER: &str = "osvm-mcp";

pub(super) const VERIFY_WALLET_SIGNATURE: Tool = Tool {
    server: SERVER,
    name: "verify_wallet_signature",
    description: "Checks that a wallet signed a text message.",
    input: r#"{"type":"object","properties":{
        "message":{"type":"string","description":"the text that was signed, as UTF-8"},
        "signature":{"type":"string","description":"64 bytes in base58 or base64"},
        "publicKey":{"type":"string","description":"the wallet's address"}},
        "required":["message","signature","publicKey"],"additionalProperties":false}"#,
    output: r#"{"type":"object","properties":{
        "valid":{"type":"boolean"},
        "publicKey":{"type":"string"},
        "reason":{"type":["string","null"],"description":"why it is not valid"}},
        "required":["valid","publicKey","reason"],"additionalProperties":false}"#,
    annotations: PURE,
    needs_network: false,
    run: |_, arguments, reply| {
        let [message, signature, key] = arguments.fields(["message", "signature", "publicKey"])?;
        let (message, signature, public_key) =
            (message.text()?, signature.signature()?, key.address()?);
        let verdict = signature::verify(&public_key.0, message.as_bytes(), &signature);
        reply.object(|o| {
            o.flag("valid", verdict.is_ok());
            o.text("publicKey", &public_key.text());
            o.optional_text("reason", verdict.err().map(signature::Fault::reason));
        });
        Ok(())
    },
};

/// Declares the methods that may be called, and the schema that lists them.
macro_rules! methods {
    ($first:literal $($more:literal)*) => {
        const METHODS: &[&str] = &[$first, $($more),*];
        const RPC_CALL: &str = concat!(
            r#"{"type":"object","properties":{"method":{"type":"string","enum":[""#,
            $first, '"', $(",\"", $more, '"',)*
            r#"]},"params":{"type":"array","description":"positional, as the method wants them"}},"#,
            r#""required":["method"],"additionalProperties":false}"#
        );
    };
}

// The methods of a node (Agave 2.3) that only read. Subscriptions need another protocol.
methods! {
    "getAccountInfo" "getBalance" "getBlock" "getBlockCommitment" "getBlockHeight"
    "getBlockProduction" "getBlockTime" "getBlocks" "getBlocksWithLimit" "getClusterNodes"
    "getEpochInfo" "getEpochSchedule" "getFeeForMessage" "getFirstAvailableBlock" "getGenesisHash"
    "getHealth" "getHighestSnapshotSlot" "getIdentity" "getInflationGovernor" "getInflationRate"
    "getInflationReward" "getLargestAccounts" "getLatestBlockhash" "getLeaderSchedule"
    "getMaxRetransmitSlot" "getMaxShredInsertSlot" "getMinimumBalanceForRentExemption"
    "getMultipleAccounts" "getProgramAccounts" "getRecentPerformanceSamples"
    "getRecentPrioritizationFees" "getSignatureStatuses" "getSignaturesForAddress" "getSlot"
    "getSlotLeader" "getSlotLeaders" "getStakeMinimumDelegation" "getSupply"
    "getTokenAccountBalance" "getTokenAccountsByDelegate" "getTokenAccountsByOwner"
    "getTokenLargestAccounts" "getTokenSupply" "getTransaction" "getTransactionCount" "getVersion"
    "getVoteAccounts" "isBlockhashValid" "minimumLedgerSlot" "simulateTransaction"
}

pub(super) const SOLANA_RPC_CALL: Tool = Tool {
    server: SERVER,
    name: "solana_rpc_call",
    description: "Calls a method of Solana's JSON-RPC interface that only reads.",
    input: RPC_CALL,
    output: r#"{"type":"object","properties":{
        "result":{"description":"as the node answered"}},
        "required":["result"],"additionalProperties":false}"#,
    annotations: READS,
    needs_network: true,
    run: |context, arguments, reply| {
        let [method, params] = arguments.fields(["method", "params"])?;
        let name = method.text()?;
        if !METHODS.contains(&&*name) {
            return Err(method.invalid(&"not one of those that only read"));
        }
        let params = params.list(usize::MAX)?;
        let write = |list: &mut Array<'_>| {
            params.iter().for_each(|param| list.raw(param.part().raw()));
        };
        rpc::ask(context, &name, &write, &mut |result| {
            reply.object(|o| o.raw("result", result.raw()));
            Ok(())
        })
    },
};

pub(super) const GET_SOLANA_BALANCE: Tool = Tool {
    server: SERVER,
    name: "get_solana_balance",
    description: "Asks for the balance of a wallet, in lamports and in SOL.",
    input: r#"{"type":"object","properties":{
        "address":{"type":"string"}},
        "required":["address"],"additionalProperties":false}"#,
    output: accounts::BALANCE,
    annotations: READS,
    needs_network: true,
    run: |context, arguments, reply| {
        let [address] = arguments.fields(["address"])?;
        accounts::balance(context, reply, &address.address()?, None)
    },
};

pub(super) const GET_TRANSACTION: Tool = Tool {
    server: SERVER,
    name: "get_transaction",
    description: "Asks for a transaction by its signature, decodes it and says what came of it.",
    input: transactions::BY_SIGNATURE,
    output: transactions::TRANSACTION,
    annotations: READS,
    needs_network: true,
    run: transactions::transaction,
};
