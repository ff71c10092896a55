"""A Solana node for tests: JSON-RPC over HTTP on loopback, in front of LiteSVM.

    tests ── HTTP ──▶ threads ── queue ──▶ main thread: LiteSVM

State, fees, logs and errors are the runtime's. What LiteSVM does not have (blocks, votes, other
nodes) is answered with -32601. One thing is added: the clock moves one slot after every
transaction, so that transactions have an order.

Prints `listening on http://127.0.0.1:PORT`, and ends when its standard input does.

    node.py                     serve
    node.py transfer FILE       print a signed transfer; FILE is JSON: seed, to, lamports, blockhash
    node.py address SEED        print the address of a key made from 32 times this byte
"""

import base64
import json
import queue
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from solders.hash import Hash
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message
from solders.pubkey import Pubkey
from solders.rpc.responses import RpcSimulateTransactionResult
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.token import ID as TOKEN_PROGRAM
from solders.token.state import Mint, TokenAccount
from solders.transaction import Transaction, VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata

# Longest request that is read, in bytes.
MAX_REQUEST = 1 << 20
# What the faucet has, in lamports: nearly all that LiteSVM hands out.
FAUCET = 9 * 10**14
TOKEN_ACCOUNT_BYTES = 165
MINT_BYTES = 82


class RpcError(Exception):
    """An error that a node tells its client."""

    def __init__(self, code, message, data=None):
        super().__init__(message)
        self.body = {"code": code, "message": message}
        if data is not None:
            self.body["data"] = data


def invalid(message):
    return RpcError(-32602, f"Invalid params: {message}")


class Node:
    """One chain. Used by one thread only."""

    def __init__(self):
        self.svm = LiteSVM()
        self.faucet = Keypair()
        self.history = {}
        funded = self.svm.airdrop(self.faucet.pubkey(), FAUCET)
        if isinstance(funded, FailedTransactionMetadata):
            raise SystemExit(f"LiteSVM does not fund the faucet: {funded.err()}")
        self.first_slot = self.slot()

    # What the chain is.

    def slot(self):
        return self.svm.get_clock().slot

    def of_slot(self, value):
        return {"context": {"apiVersion": "2.3.0", "slot": self.slot()}, "value": value}

    def get_health(self):
        return "ok"

    def get_version(self):
        return {"solana-core": "2.3.0", "feature-set": 0}

    def get_slot(self, _config=None):
        return self.slot()

    def get_block_height(self, _config=None):
        return self.slot() - self.first_slot

    def get_epoch_info(self, _config=None):
        schedule, slot = self.svm.get_epoch_schedule(), self.slot()
        epoch, index = schedule.get_epoch_and_slot_index(slot)
        return {
            "absoluteSlot": slot,
            "blockHeight": self.get_block_height(),
            "epoch": epoch,
            "slotIndex": index,
            "slotsInEpoch": schedule.get_slots_in_epoch(epoch),
            "transactionCount": len(self.history),
        }

    def get_latest_blockhash(self, _config=None):
        height = self.get_block_height() + 150
        blockhash = str(self.svm.latest_blockhash())
        return self.of_slot({"blockhash": blockhash, "lastValidBlockHeight": height})

    def get_minimum_balance_for_rent_exemption(self, size, _config=None):
        return self.svm.minimum_balance_for_rent_exemption(size)

    # Accounts.

    def get_balance(self, address, _config=None):
        return self.of_slot(self.svm.get_balance(pubkey(address)) or 0)

    def get_account_info(self, address, config=None):
        return self.of_slot(self.account(pubkey(address), config or {}))

    def get_multiple_accounts(self, addresses, config=None):
        if len(addresses) > 100:
            raise invalid("Too many inputs provided; max 100")
        accounts = [self.account(pubkey(address), config or {}) for address in addresses]
        return self.of_slot(accounts)

    def get_program_accounts(self, program, config=None):
        config = config or {}
        filters = config.get("filters") or []
        found = []
        for address, account in self.svm.get_program_accounts(pubkey(program)):
            data = bytes(account.data)
            if account.lamports and all(matches(data, one) for one in filters):
                found.append({"pubkey": str(address), "account": encode(account, config)})
        return self.of_slot(found) if config.get("withContext") else found

    def account(self, address, config):
        account = self.svm.get_account(address)
        return encode(account, config) if account and account.lamports else None

    # Tokens.

    def mint(self, address):
        account = self.svm.get_account(address)
        if not account or account.owner != TOKEN_PROGRAM or len(account.data) != MINT_BYTES:
            raise invalid("not a Token mint")
        return Mint.from_bytes(bytes(account.data))

    def get_token_supply(self, address, _config=None):
        mint = self.mint(pubkey(address))
        return self.of_slot(amount(mint.supply, mint.decimals))

    def get_token_accounts_by_owner(self, owner, which, config=None):
        if (config or {}).get("encoding") != "jsonParsed":
            raise invalid("only jsonParsed is served")
        owner = pubkey(owner)
        mint = pubkey(which["mint"]) if "mint" in which else None
        if mint is None and pubkey(which["programId"]) != TOKEN_PROGRAM:
            raise invalid("unrecognized Token program id")
        found = []
        for address, account in self.svm.get_program_accounts(TOKEN_PROGRAM):
            if len(account.data) != TOKEN_ACCOUNT_BYTES:
                continue
            state = TokenAccount.from_bytes(bytes(account.data))
            if state.owner == owner and mint in (None, state.mint):
                found.append({"pubkey": str(address), "account": self.parsed(account, state)})
        return self.of_slot(found)

    def parsed(self, account, state):
        decimals = self.mint(state.mint).decimals
        info = {
            "isNative": state.is_native is not None,
            "mint": str(state.mint),
            "owner": str(state.owner),
            "state": ("uninitialized", "initialized", "frozen")[int(state.state)],
            "tokenAmount": amount(state.amount, decimals),
        }
        shown = encode(account, {"encoding": "base64"})
        parsed = {"type": "account", "info": info}
        shown["data"] = {"program": "spl-token", "parsed": parsed, "space": shown["space"]}
        return shown

    # Transactions.

    def request_airdrop(self, address, lamports, _config=None):
        params = TransferParams(
            from_pubkey=self.faucet.pubkey(), to_pubkey=pubkey(address), lamports=lamports
        )
        # Two airdrops of the same amount would be one transaction.
        self.svm.expire_blockhash()
        blockhash = self.svm.latest_blockhash()
        message = Message.new_with_blockhash([transfer(params)], self.faucet.pubkey(), blockhash)
        transaction = Transaction([self.faucet], message, blockhash)
        outcome = self.run(VersionedTransaction.from_bytes(bytes(transaction)))
        if outcome["err"] is not None:
            raise RpcError(-32603, f"airdrop failed: {outcome['err']}")
        return outcome["signature"]

    def send_transaction(self, text, config=None):
        config = config or {}
        transaction = decode(text, config)
        if not config.get("skipPreflight"):
            value = self.simulate(transaction)
            if value["err"] is not None:
                message = f"Transaction simulation failed: {json.dumps(value['err'])}"
                raise RpcError(-32002, message, value)
        return self.run(transaction)["signature"]

    def run(self, transaction):
        """Gives a transaction to the runtime and keeps what came of it."""
        accounts = transaction.message.account_keys
        before = [self.svm.get_balance(key) or 0 for key in accounts]
        outcome = self.svm.send_transaction(transaction)
        failed = isinstance(outcome, FailedTransactionMetadata)
        meta = outcome.meta() if failed else outcome
        signature = str(transaction.signatures[0])
        kept = {
            "signature": signature,
            "err": rpc_error(outcome.err()) if failed else None,
            "fee": meta.fee(),
            "logs": meta.logs(),
            "units": meta.compute_units_consumed(),
            "slot": self.slot(),
            "time": self.svm.get_clock().unix_timestamp,
            "bytes": bytes(transaction),
            "accounts": accounts,
            "before": before,
            "after": [self.svm.get_balance(key) or 0 for key in accounts],
        }
        # What never ran (a wrong signature, an old blockhash) is on no chain.
        if self.svm.get_transaction(transaction.signatures[0]) is not None:
            self.history.setdefault(signature, kept)
            self.svm.warp_to_slot(self.slot() + 1)
        return kept

    def simulate_transaction(self, text, config=None):
        config = config or {}
        transaction = decode(text, config)
        if not config.get("replaceRecentBlockhash"):
            return self.of_slot(self.simulate(transaction, config.get("sigVerify", False)))
        if config.get("sigVerify"):
            raise invalid("sigVerify may not be used with replaceRecentBlockhash")
        self.svm.with_blockhash_check(False)
        try:
            return self.of_slot(self.simulate(transaction, False))
        finally:
            self.svm.with_blockhash_check(True)

    def simulate(self, transaction, verify=True):
        self.svm.with_sigverify(verify)
        try:
            outcome = self.svm.simulate_transaction(transaction)
        finally:
            self.svm.with_sigverify(True)
        failed = isinstance(outcome, FailedTransactionMetadata)
        return {
            "err": rpc_error(outcome.err()) if failed else None,
            "logs": outcome.meta().logs(),
            "accounts": None,
            "unitsConsumed": outcome.meta().compute_units_consumed(),
            "returnData": None,
        }

    def get_transaction(self, signature, config=None):
        kept = self.history.get(str(parse_signature(signature)))
        if kept is None:
            return None
        if (config or {}).get("encoding") != "base64":
            raise invalid("only base64 is served")
        status = {"Ok": None} if kept["err"] is None else {"Err": kept["err"]}
        return {
            "slot": kept["slot"],
            "blockTime": kept["time"],
            "version": "legacy" if kept["bytes"][1 + 64 * kept["bytes"][0]] < 128 else 0,
            "transaction": [base64.b64encode(kept["bytes"]).decode(), "base64"],
            "meta": {
                "err": kept["err"],
                "status": status,
                "fee": kept["fee"],
                "logMessages": kept["logs"],
                "computeUnitsConsumed": kept["units"],
                "preBalances": kept["before"],
                "postBalances": kept["after"],
            },
        }

    def get_signature_statuses(self, signatures, _config=None):
        def status(signature):
            kept = self.history.get(str(parse_signature(signature)))
            return kept and {
                "slot": kept["slot"],
                "confirmations": None,
                "err": kept["err"],
                "confirmationStatus": "finalized",
            }

        return self.of_slot([status(signature) for signature in signatures])

    def get_signatures_for_address(self, address, config=None):
        config, address = config or {}, pubkey(address)
        listed = []
        skipping = "before" in config
        for signature, kept in reversed(self.history.items()):
            if signature == config.get("until") or len(listed) == config.get("limit", 1000):
                break
            if not skipping and address in kept["accounts"]:
                shown = {"signature": signature, "slot": kept["slot"], "err": kept["err"]}
                extra = {"memo": None, "blockTime": kept["time"], "confirmationStatus": "finalized"}
                listed.append(shown | extra)
            skipping = skipping and signature != config["before"]
        return listed


METHODS = {
    "getHealth": Node.get_health,
    "getVersion": Node.get_version,
    "getSlot": Node.get_slot,
    "getBlockHeight": Node.get_block_height,
    "getEpochInfo": Node.get_epoch_info,
    "getLatestBlockhash": Node.get_latest_blockhash,
    "getMinimumBalanceForRentExemption": Node.get_minimum_balance_for_rent_exemption,
    "getBalance": Node.get_balance,
    "getAccountInfo": Node.get_account_info,
    "getMultipleAccounts": Node.get_multiple_accounts,
    "getProgramAccounts": Node.get_program_accounts,
    "getTokenSupply": Node.get_token_supply,
    "getTokenAccountsByOwner": Node.get_token_accounts_by_owner,
    "requestAirdrop": Node.request_airdrop,
    "sendTransaction": Node.send_transaction,
    "simulateTransaction": Node.simulate_transaction,
    "getTransaction": Node.get_transaction,
    "getSignatureStatuses": Node.get_signature_statuses,
    "getSignaturesForAddress": Node.get_signatures_for_address,
}


def pubkey(text):
    try:
        return Pubkey.from_string(text)
    except (TypeError, ValueError) as error:
        raise invalid(f"Invalid: {error}") from error


def parse_signature(text):
    try:
        return Signature.from_string(text)
    except (TypeError, ValueError) as error:
        raise invalid(f"Invalid: {error}") from error


def decode(text, config):
    if config.get("encoding") != "base64":
        raise invalid("only base64 is served")
    try:
        return VersionedTransaction.from_bytes(base64.b64decode(text, validate=True))
    except Exception as error:
        raise invalid(f"failed to deserialize the transaction: {error}") from error


def encode(account, config):
    if config.get("encoding") != "base64":
        raise invalid("only base64 is served")
    data = bytes(account.data)
    size = len(data)
    part = config.get("dataSlice")
    if part is not None:
        data = data[part["offset"] : part["offset"] + part["length"]]
    return {
        "lamports": account.lamports,
        "owner": str(account.owner),
        "executable": account.executable,
        "rentEpoch": account.rent_epoch,
        "space": size,
        "data": [base64.b64encode(data).decode(), "base64"],
    }


def matches(data, one):
    if "dataSize" in one:
        return len(data) == one["dataSize"]
    compare = one["memcmp"]
    offset, text = compare["offset"], compare["bytes"]
    wanted = from_base58(text)
    return data[offset : offset + len(wanted)] == wanted


def from_base58(text):
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    number = 0
    for digit in text:
        if digit not in alphabet:
            raise invalid("memcmp bytes are not base58")
        number = number * 58 + alphabet.index(digit)
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def amount(value, decimals):
    return {
        "amount": str(value),
        "decimals": decimals,
        "uiAmount": value / 10**decimals,
        "uiAmountString": f"{value / 10**decimals:.{decimals}f}",
    }


def rpc_error(error):
    """The runtime's error as a node writes it."""
    result = RpcSimulateTransactionResult(err=error)
    return json.loads(result.to_json())["err"]


def answer(node, body):
    """One request as text to one answer as text."""
    ident = None
    try:
        try:
            request = json.loads(body)
        except ValueError as error:
            raise RpcError(-32700, "Parse error") from error
        if not isinstance(request, dict) or request.get("jsonrpc") != "2.0":
            raise RpcError(-32600, "Invalid request")
        ident = request.get("id")
        method = METHODS.get(request.get("method"))
        if method is None:
            raise RpcError(-32601, "Method not found")
        params = request.get("params") or []
        if not isinstance(params, list):
            raise invalid("expected a list")
        try:
            outcome = {"result": method(node, *params)}
        except (TypeError, KeyError, IndexError, OverflowError, AttributeError) as error:
            raise invalid(error) from error
    except RpcError as error:
        outcome = {"error": error.body}
    return json.dumps({"jsonrpc": "2.0", "id": ident} | outcome)


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the thread of the chain."""

    protocol_version = "HTTP/1.1"
    requests = queue.Queue()

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= MAX_REQUEST:
            return self.reply(413, "")
        answered = queue.Queue()
        self.requests.put((self.rfile.read(length), answered))
        return self.reply(200, answered.get())

    def do_GET(self):
        self.reply(405, "")

    def reply(self, status, text):
        body = text.encode()
        head = (
            f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        # At once: two small writes in a row wait for the other side's delayed acknowledgement.
        self.wfile.write(head.encode() + body)

    def log_message(self, *_):
        pass


def serve():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def wait_for_end():
        sys.stdin.read()
        Handler.requests.put(None)

    threading.Thread(target=wait_for_end, daemon=True).start()
    node = Node()
    print(f"listening on http://127.0.0.1:{server.server_address[1]}", flush=True)
    while (request := Handler.requests.get()) is not None:
        body, answered = request
        try:
            answered.put(answer(node, body))
        except Exception as error:  # A client must not wait for ever for a fault of ours.
            print(f"node: {error!r}", file=sys.stderr, flush=True)
            fault = {"code": -32603, "message": "Internal error"}
            answered.put(json.dumps({"jsonrpc": "2.0", "id": None, "error": fault}))


def key(seed):
    return Keypair.from_seed(bytes([int(seed)]) * 32)


def sign_transfer(path):
    with open(path, encoding="utf-8") as file:
        wanted = json.load(file)
    sender, blockhash = key(wanted["seed"]), Hash.from_string(wanted["blockhash"])
    params = TransferParams(
        from_pubkey=sender.pubkey(),
        to_pubkey=Pubkey.from_string(wanted["to"]),
        lamports=wanted["lamports"],
    )
    message = Message.new_with_blockhash([transfer(params)], sender.pubkey(), blockhash)
    transaction = Transaction([sender], message, blockhash)
    packed = base64.b64encode(bytes(transaction)).decode()
    print(json.dumps({"transaction": packed, "signature": str(transaction.signatures[0])}))


def main(arguments):
    match arguments:
        case []:
            serve()
        case ["transfer", path]:
            sign_transfer(path)
        case ["address", seed]:
            print(key(seed).pubkey())
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
