"""Makes the vectors in this folder with Solana's own libraries.

    python3 -m venv env && env/bin/pip install solders==0.29.0 solana && env/bin/python make.py

`solders` is Solana's Rust SDK for Python. It builds, signs and checks the transactions, derives
the addresses, and its LiteSVM runs the real token programs, whose accounts are read back.
Instructions of SPL Token come from `spl.token` (package `solana`). What a decoder should say is
put together from the values the instructions were built with, never from their bytes.
"""

import base64
import hashlib
import json
import pathlib

from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.compute_budget import (
    request_heap_frame, set_compute_unit_limit, set_compute_unit_price,
    set_loaded_accounts_data_size_limit,
)
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.sysvar import RECENT_BLOCKHASHES, RENT
from solders.transaction import VersionedTransaction
import solders.system_program as system
import spl.token.instructions as token
import spl.token.models as models

HERE = pathlib.Path(__file__).parent
TOKEN = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
TOKEN_2022 = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
MEMO_V1 = Pubkey.from_string("Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo")
NATIVE_MINT = Pubkey.from_string("So11111111111111111111111111111111111111112")
NAMES = {
    system.ID: "system", TOKEN: "spl-token", TOKEN_2022: "spl-token-2022",
    BUDGET: "compute-budget", MEMO: "spl-memo", MEMO_V1: "spl-memo",
}
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
U64_MAX = 2**64 - 1
# `spl.token` writes a key of zeros after the byte that says there is none.
KEY_FOR_NONE = 32


def key(number):
    return Keypair.from_seed(hashlib.sha256(b"osvm vector key %d" % number).digest())


PAYER = key(0)
A, B, C, D, E, F, G = (key(number).pubkey() for number in range(1, 8))
BLOCKHASH = Hash(hashlib.sha256(b"osvm vector blockhash").digest())


def base58(data):
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = ALPHABET[digit] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits


def plain(value):
    if isinstance(value, Pubkey):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


# Instructions: each with its name and what it was built from.


def system_instructions():
    seed_owner = F
    with_seed = Pubkey.create_with_seed(A, "savings", seed_owner)
    yield system.create_account(dict(from_pubkey=A, to_pubkey=B, lamports=5, space=165, owner=TOKEN)), \
        "createAccount", dict(source=A, newAccount=B, lamports=5, space=165, owner=TOKEN)
    yield system.assign(dict(pubkey=A, owner=TOKEN)), "assign", dict(account=A, owner=TOKEN)
    yield system.transfer(dict(from_pubkey=A, to_pubkey=B, lamports=U64_MAX)), \
        "transfer", dict(source=A, destination=B, lamports=U64_MAX)
    yield system.create_account_with_seed(dict(
        from_pubkey=B, to_pubkey=with_seed, base=A, seed="savings", lamports=7, space=9, owner=seed_owner)), \
        "createAccountWithSeed", dict(source=B, newAccount=with_seed, base=A, seed="savings",
                                      lamports=7, space=9, owner=seed_owner)
    yield system.advance_nonce_account(dict(nonce_pubkey=A, authorized_pubkey=B)), \
        "advanceNonce", dict(nonceAccount=A, recentBlockhashesSysvar=RECENT_BLOCKHASHES, nonceAuthority=B)
    yield system.withdraw_nonce_account(dict(
        nonce_pubkey=A, authorized_pubkey=B, to_pubkey=C, lamports=11)), \
        "withdrawFromNonce", dict(nonceAccount=A, destination=C, recentBlockhashesSysvar=RECENT_BLOCKHASHES,
                                  rentSysvar=RENT, nonceAuthority=B, lamports=11)
    yield system.initialize_nonce_account(dict(nonce_pubkey=A, authority=B)), \
        "initializeNonce", dict(nonceAccount=A, recentBlockhashesSysvar=RECENT_BLOCKHASHES,
                                rentSysvar=RENT, nonceAuthority=B)
    yield system.authorize_nonce_account(dict(nonce_pubkey=A, authorized_pubkey=B, new_authority=C)), \
        "authorizeNonce", dict(nonceAccount=A, nonceAuthority=B, newAuthorized=C)
    yield system.allocate(dict(pubkey=A, space=1000)), "allocate", dict(account=A, space=1000)
    yield system.allocate_with_seed(dict(address=with_seed, base=A, seed="savings", space=3, owner=F)), \
        "allocateWithSeed", dict(account=with_seed, base=A, seed="savings", space=3, owner=F)
    yield system.assign_with_seed(dict(address=with_seed, base=A, seed="sävings", owner=F)), \
        "assignWithSeed", dict(account=with_seed, base=A, seed="sävings", owner=F)
    yield system.transfer_with_seed(dict(
        from_pubkey=with_seed, from_base=A, from_seed="savings", from_owner=F, to_pubkey=C, lamports=13)), \
        "transferWithSeed", dict(source=with_seed, sourceBase=A, destination=C, lamports=13,
                                 sourceSeed="savings", sourceOwner=F)
    yield system.upgrade_nonce_account(dict(nonce_pubkey=A)), "upgradeNonce", dict(nonceAccount=A)
    prefund = dict(new_account=A, lamports=17, space=19, owner=TOKEN)
    yield system.create_account_allow_prefund(dict(prefund, payer=B)), \
        "createAccountAllowPrefund", dict(newAccount=A, source=B, lamports=17, space=19, owner=TOKEN)
    yield system.create_account_allow_prefund(dict(prefund, payer=None, lamports=0)), \
        "createAccountAllowPrefund", dict(newAccount=A, lamports=0, space=19, owner=TOKEN)


def token_instructions(program):
    P = dict(program_id=program)
    newer = program == TOKEN_2022
    yield token.initialize_mint(models.InitializeMintParams(
        decimals=6, mint=A, mint_authority=B, freeze_authority=C, **P)), \
        "initializeMint", dict(mint=A, rentSysvar=RENT, decimals=6, mintAuthority=B, freezeAuthority=C)
    yield token.initialize_mint2(models.InitializeMint2Params(
        decimals=0, mint=A, mint_authority=B, **P)), \
        "initializeMint2", dict(mint=A, decimals=0, mintAuthority=B, freezeAuthority=None), KEY_FOR_NONE
    yield token.initialize_account(models.InitializeAccountParams(account=A, mint=B, owner=C, **P)), \
        "initializeAccount", dict(account=A, mint=B, owner=C, rentSysvar=RENT)
    yield token.initialize_account2(models.InitializeAccount2Params(account=A, mint=B, owner=C, **P)), \
        "initializeAccount2", dict(account=A, mint=B, rentSysvar=RENT, owner=C)
    yield token.initialize_account3(models.InitializeAccount3Params(account=A, mint=B, owner=C, **P)), \
        "initializeAccount3", dict(account=A, mint=B, owner=C)
    yield token.initialize_multisig(models.InitializeMultisigParams(m=2, multisig=A, signers=[B, C, D], **P)), \
        "initializeMultisig", dict(multisig=A, rentSysvar=RENT, signers=[B, C, D], m=2)
    yield token.initialize_multisig2(models.InitializeMultisig2Params(m=1, multisig=A, signers=[B], **P)), \
        "initializeMultisig2", dict(multisig=A, signers=[B], m=1)
    yield token.transfer(models.TransferParams(source=A, dest=B, owner=C, amount=U64_MAX, **P)), \
        "transfer", dict(source=A, destination=B, authority=C, amount=str(U64_MAX))
    yield token.transfer(models.TransferParams(source=A, dest=B, owner=C, amount=1, signers=[D, E], **P)), \
        "transfer", dict(source=A, destination=B, authority=C, signers=[D, E], amount="1")
    yield token.approve(models.ApproveParams(source=A, delegate=B, owner=C, amount=2, **P)), \
        "approve", dict(source=A, delegate=B, owner=C, amount="2")
    yield token.revoke(models.RevokeParams(account=A, owner=B, **P)), "revoke", dict(source=A, owner=B)
    yield token.set_authority(models.SetAuthorityParams(
        account=A, authority=models.AuthorityType.ACCOUNT_OWNER, current_authority=B, new_authority=C, **P)), \
        "setAuthority", dict(account=A, authority=B, authorityType="accountOwner", newAuthority=C)
    yield token.set_authority(models.SetAuthorityParams(
        account=A, authority=models.AuthorityType.MINT_TOKENS, current_authority=B, new_authority=None, **P)), \
        "setAuthority", dict(account=A, authority=B, authorityType="mintTokens", newAuthority=None), KEY_FOR_NONE
    yield token.mint_to(models.MintToParams(mint=A, dest=B, mint_authority=C, amount=3, **P)), \
        "mintTo", dict(mint=A, account=B, mintAuthority=C, amount="3")
    yield token.burn(models.BurnParams(account=A, mint=B, owner=C, amount=4, **P)), \
        "burn", dict(account=A, mint=B, authority=C, amount="4")
    yield token.close_account(models.CloseAccountParams(account=A, dest=B, owner=C, **P)), \
        "closeAccount", dict(account=A, destination=B, owner=C)
    yield token.freeze_account(models.FreezeAccountParams(account=A, mint=B, authority=C, **P)), \
        "freezeAccount", dict(account=A, mint=B, freezeAuthority=C)
    yield token.thaw_account(models.ThawAccountParams(account=A, mint=B, authority=C, **P)), \
        "thawAccount", dict(account=A, mint=B, freezeAuthority=C)
    yield token.transfer_checked(models.TransferCheckedParams(
        source=A, mint=B, dest=C, owner=D, amount=5, decimals=6, **P)), \
        "transferChecked", dict(source=A, mint=B, destination=C, authority=D, amount="5", decimals=6)
    yield token.approve_checked(models.ApproveCheckedParams(
        source=A, mint=B, delegate=C, owner=D, amount=6, decimals=9, **P)), \
        "approveChecked", dict(source=A, mint=B, delegate=C, owner=D, amount="6", decimals=9)
    yield token.mint_to_checked(models.MintToCheckedParams(
        mint=A, dest=B, mint_authority=C, amount=7, decimals=0, **P)), \
        "mintToChecked", dict(mint=A, account=B, mintAuthority=C, amount="7", decimals=0)
    yield token.burn_checked(models.BurnCheckedParams(
        account=A, mint=B, owner=C, amount=8, decimals=255, **P)), \
        "burnChecked", dict(account=A, mint=B, authority=C, amount="8", decimals=255)
    yield token.sync_native(models.SyncNativeParams(account=A, **P)), "syncNative", dict(account=A)
    yield token.get_account_data_size(models.GetAccountDataSizeParams(mint=A, **P)), \
        "getAccountDataSize", dict(mint=A, **({"extensionTypes": []} if newer else {}))
    yield token.initialize_immutable_owner(models.InitializeImmutableOwnerParams(account=A, **P)), \
        "initializeImmutableOwner", dict(account=A)
    yield token.amount_to_ui_amount(models.AmountToUiAmountParams(mint=A, amount=9, **P)), \
        "amountToUiAmount", dict(mint=A, amount="9")
    yield token.ui_amount_to_amount(models.UiAmountToAmountParams(mint=A, ui_amount="1.50", **P)), \
        "uiAmountToAmount", dict(mint=A, uiAmount="1.50")


def newest_instructions(program, source, destination, authority):
    """What no library here builds. `token_accounts` has the real program run them."""
    accounts = [AccountMeta(source, False, True), AccountMeta(destination, False, True), AccountMeta(authority, True, False)]
    named = dict(source=source, destination=destination, authority=authority)
    five = bytes([45, 1]) + (5).to_bytes(8, "little")
    yield Instruction(program, five, accounts), "unwrapLamports", dict(named, amount="5")
    yield Instruction(program, bytes([45, 0]), accounts), "unwrapLamports", dict(named, amount=None)
    inner = dict(type="unwrapLamports", info={name: str(account) for name, account in dict(named, amount=5).items()})
    yield Instruction(program, bytes([255]) + (bytes([3, len(five)]) + five) * 2, accounts * 2), \
        "batch", dict(instructions=[inner, inner])
    yield Instruction(program, bytes([38]), accounts), "withdrawExcessLamports", named


def other_instructions():
    yield request_heap_frame(262144), "requestHeapFrame", dict(bytes=262144)
    yield set_compute_unit_limit(1_400_000), "setComputeUnitLimit", dict(units=1_400_000)
    yield set_compute_unit_price(U64_MAX), "setComputeUnitPrice", dict(microLamports=U64_MAX)
    yield set_loaded_accounts_data_size_limit(65536), "setLoadedAccountsDataSizeLimit", dict(bytes=65536)
    # Deprecated, so the library no longer builds it: its layout is that of the SDK's enum.
    yield Instruction(BUDGET, bytes([0]) + (200_000).to_bytes(4, "little") + (5).to_bytes(4, "little"), []), \
        "requestUnits", dict(units=200_000, additionalFee=5)
    text = "thanks for the fish \U0001f41f"
    yield Instruction(MEMO, text.encode(), [AccountMeta(A, True, False), AccountMeta(B, True, False)]), \
        "memo", dict(signers=[A, B], memo=text)
    yield Instruction(MEMO_V1, b"", []), "memo", dict(memo="")
    yield Instruction(MEMO, b"\xff\xfe", []), None, "`memo` of `memo` cannot be read"
    yield Instruction(system.ID, b"\x63\0\0\0", []), None, "instruction 99 is not known"
    yield Instruction(system.ID, b"\x02\0", []), None, "data is too short to name an instruction"
    yield Instruction(system.ID, b"\x02\0\0\0" + bytes(7), [AccountMeta(A, True, True), AccountMeta(B, False, True)]), \
        None, "`lamports` of `transfer` cannot be read"
    yield Instruction(system.ID, b"\x02\0\0\0" + bytes(8), [AccountMeta(A, True, True)]), \
        None, "`transfer` needs 2 accounts and has 1"
    yield Instruction(system.ID, b"\x02\0\0\0" + (1).to_bytes(8, "little") + b"xyz",
                      [AccountMeta(A, True, True), AccountMeta(B, False, True)]), \
        "transfer", dict(source=A, destination=B, lamports=1), 3
    yield Instruction(G, bytes(range(40)), [AccountMeta(A, False, True)]), None, None


def decoded(known, name, info, ignored=0):
    if not known:
        return dict(decoded=None)
    if name is None:
        return dict(decoded=None, decode_error=info)
    body = dict(type=name, info={field: plain(value) for field, value in info.items()})
    return dict(decoded=dict(body, ignored_bytes=ignored) if ignored else body)


# Transactions.


def sign(message, wrong=(), missing=()):
    keys = {key(number).pubkey(): key(number) for number in range(0, 64)}
    raw = bytes(message) if isinstance(message, Message) else versioned_bytes(message)
    signatures = []
    for position in range(message.header.num_required_signatures):
        signer = keys[message.account_keys[position]]
        if position in missing:
            signatures.append(Signature.default())
        else:
            signatures.append(signer.sign_message(raw + b"!" if position in wrong else raw))
    return VersionedTransaction.populate(message, signatures)


def versioned_bytes(message):
    unsigned = VersionedTransaction.populate(message, [])
    return bytes(unsigned)[1:]


def expected(transaction, contents):
    message, header = transaction.message, transaction.message.header
    keys = message.account_keys
    raw = bytes(transaction)
    results = transaction.verify_with_results()
    signatures = []
    for signature, signer, valid in zip(transaction.signatures, keys, results):
        status = "valid" if valid else "missing" if signature == Signature.default() else "invalid"
        entry = dict(signature=str(signature), signer=str(signer), status=status)
        if status == "invalid":
            entry["reason"] = "the signature does not belong to this key and message"
        signatures.append(entry)
    signers = header.num_required_signatures
    accounts = []
    for index, address in enumerate(keys):
        if index < signers:
            writable = index < signers - header.num_readonly_signed_accounts
        else:
            writable = index < len(keys) - header.num_readonly_unsigned_accounts
        accounts.append(dict(index=index, address=str(address), signer=message.is_signer(index),
                             writable=writable, source="static"))
    lookups = getattr(message, "address_table_lookups", [])
    for writable in (True, False):
        for lookup in lookups:
            for entry in (lookup.writable_indexes if writable else lookup.readonly_indexes):
                accounts.append(dict(index=len(accounts), address=None, signer=False, writable=writable,
                                     source="lookup_table", lookup_table=str(lookup.account_key),
                                     lookup_index=entry))
    instructions = []
    for compiled, content in zip(message.instructions, contents, strict=True):
        program = keys[compiled.program_id_index]
        instructions.append(dict(
            program_id=str(program), program=NAMES.get(program), accounts=list(compiled.accounts),
            data_base58=base58(compiled.data), data_hex=compiled.data.hex(),
            **decoded(program in NAMES, *content)))
    return dict(
        encoding="base64", size_bytes=len(raw), fits_packet=len(raw) <= 1232,
        version="v0" if isinstance(message, MessageV0) else "legacy",
        signatures=signatures, signatures_valid=all(results), fee_payer=str(keys[0]),
        recent_blockhash=str(message.recent_blockhash),
        header=dict(num_required_signatures=signers,
                    num_readonly_signed_accounts=header.num_readonly_signed_accounts,
                    num_readonly_unsigned_accounts=header.num_readonly_unsigned_accounts),
        accounts=accounts, instructions=instructions,
        address_table_lookups=[dict(account_key=str(lookup.account_key),
                                    writable_indexes=list(lookup.writable_indexes),
                                    readonly_indexes=list(lookup.readonly_indexes)) for lookup in lookups])


def vector(name, transaction, contents):
    raw = bytes(transaction)
    return dict(name=name, base64=base64.b64encode(raw).decode(), base58=base58(raw),
                expect=expected(transaction, contents))


def legacy(instructions):
    return Message.new_with_blockhash(instructions, PAYER.pubkey(), BLOCKHASH)


def transactions():
    pay = system.transfer(dict(from_pubkey=PAYER.pubkey(), to_pubkey=B, lamports=12345))
    paid = ("transfer", dict(source=PAYER.pubkey(), destination=B, lamports=12345))
    yield vector("one signer", sign(legacy([pay])), [paid])
    yield vector("one bad signature", sign(legacy([pay]), wrong=[0]), [paid])
    yield vector("not signed yet", sign(legacy([pay]), missing=[0]), [paid])
    yield vector("no instruction", sign(legacy([])), [])
    several = [system.transfer(dict(from_pubkey=one, to_pubkey=B, lamports=1)) for one in (A, C, D)]
    contents = [("transfer", dict(source=one, destination=B, lamports=1)) for one in (A, C, D)]
    yield vector("four signers", sign(legacy(several)), contents)
    yield vector("four signers, one wrong, one missing", sign(legacy(several), wrong=[1], missing=[3]), contents)
    for group, made in (("system", system_instructions()), ("token", token_instructions(TOKEN)),
                        ("token 2022", token_instructions(TOKEN_2022)), ("other", other_instructions()),
                        ("token, newest", newest_instructions(TOKEN, A, B, C))):
        for instruction, *content in made:
            name = f"{group}: {content[0] or content[1] or 'a program without a decoder'}"
            yield vector(name, sign(legacy([instruction])), [content])
    # Look-up tables.
    tables = [
        AddressLookupTableAccount(key(20).pubkey(), [E, B, F, key(30).pubkey()]),
        AddressLookupTableAccount(key(21).pubkey(), [key(31).pubkey(), C]),
    ]
    mixed = [
        set_compute_unit_limit(5),
        system.transfer(dict(from_pubkey=PAYER.pubkey(), to_pubkey=B, lamports=2)),
        token.transfer_checked(models.TransferCheckedParams(
            program_id=TOKEN, source=E, mint=C, dest=F, owner=A, amount=3, decimals=2)),
    ]
    contents = [
        ("setComputeUnitLimit", dict(units=5)),
        ("transfer", dict(source=PAYER.pubkey(), destination=None, lamports=2)),
        ("transferChecked", dict(source=None, mint=None, destination=None, authority=A, amount="3", decimals=2)),
    ]
    message = MessageV0.try_compile(PAYER.pubkey(), mixed, tables, BLOCKHASH)
    assert len(message.address_table_lookups) == 2
    yield vector("version 0 with two look-up tables", sign(message), contents)
    yield vector("version 0, one bad signature", sign(message, wrong=[1]), contents)
    message = MessageV0.try_compile(PAYER.pubkey(), [pay], [], BLOCKHASH)
    yield vector("version 0 without look-ups", sign(message), [paid])


# Keys: addresses, derived addresses, signatures.

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
CURVE_D = -121665 * pow(121666, -1, PRIME) % PRIME


def add(p, q):
    (x1, y1), (x2, y2) = p, q
    product = CURVE_D * x1 * x2 * y1 * y2
    return ((x1 * y2 + x2 * y1) * pow(1 + product, -1, PRIME) % PRIME,
            (y1 * y2 + x1 * x2) * pow(1 - product, -1, PRIME) % PRIME)


def multiply(number, point):
    result = (0, 1)
    while number:
        if number & 1:
            result = add(result, point)
        point, number = add(point, point), number >> 1
    return result


def root(y, sign):
    square = (y * y - 1) * pow(CURVE_D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if x * x % PRIME != square:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    if x * x % PRIME != square:
        return None
    return PRIME - x if x and x & 1 != sign else x


BASE_Y = 4 * pow(5, -1, PRIME) % PRIME
BASE = (root(BASE_Y, 0), BASE_Y)


def encode(point):
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def small_order_points():
    for y in range(2, 1000):
        x = root(y, 0)
        if x is not None:
            generator = multiply(ORDER, (x, y))
            points = [multiply(n, generator) for n in range(8)]
            if len(set(points)) == 8:
                return points
    raise AssertionError("no point of order 8")


def scalar_of(keypair):
    digest = hashlib.sha512(bytes(keypair)[:32]).digest()
    number = int.from_bytes(digest[:32], "little")
    return number & (2**254 - 8) | 2**254


def challenge(commitment, public, message):
    return int.from_bytes(hashlib.sha512(commitment + public + message).digest(), "little") % ORDER


def signatures():
    message = "sign me, please: été".encode()
    signer = key(40)
    good = bytes(signer.sign_message(message))
    public = bytes(signer.pubkey())
    cases = [("good", public, message, good),
             ("good, of nothing", public, b"", bytes(signer.sign_message(b"")))]
    for name, at in (("R", 5), ("S", 40)):
        changed = bytearray(good)
        changed[at] ^= 4
        cases.append((f"a bit of {name} changed", public, message, bytes(changed)))
    cases.append(("another message", public, message + b".", good))
    cases.append(("another key", bytes(key(41).pubkey()), message, good))
    too_large = int.from_bytes(good[32:], "little") + ORDER
    cases.append(("S is not reduced", public, message, good[:32] + too_large.to_bytes(32, "little")))
    cases.append(("all zero", public, message, bytes(64)))
    points = small_order_points()
    secret = scalar_of(signer)
    for number, point in enumerate(points):
        small = encode(point)
        # The equation holds for a key of small order when R = -k A and S = 0.
        for counter in range(64):
            text = b"small order %d" % counter
            if multiply(8 - challenge(small, small, text) % 8, point) == point:
                cases.append((f"key and R of small order, equation holds, {number}", small, text, small + bytes(32)))
                break
        # The equation holds for R = 0 and an honest key when S = k a.
        s = challenge(small, public, message) * secret % ORDER
        cases.append((f"R of small order, {number}", public, message, small + s.to_bytes(32, "little")))
        if number == 0:
            continue
        # A key with a part of small order: without the cofactor, the equation holds only where
        # that part cancels out.
        mixed = encode(add(multiply(secret, BASE), point))
        for holds in (True, False):
            nonce = multiply(7, BASE)
            for counter in range(4096):
                text = b"mixed order %d" % counter
                k = challenge(encode(nonce), mixed, text)
                if (multiply(k % 8, point) == (0, 1)) == holds:
                    s = (7 + k * secret) % ORDER
                    cases.append((f"key of mixed order {number}, cancels out: {holds}", mixed, text,
                                  encode(nonce) + s.to_bytes(32, "little")))
                    break
    # Encodings of y that are not reduced: y = 1 and y = 0, written as y + p.
    for y in (PRIME + 1, PRIME):
        cases.append((f"key written as p + {y - PRIME}", y.to_bytes(32, "little"), b"", y.to_bytes(32, "little") + bytes(32)))
    cases.append(("key off the curve", bytes([2]) + bytes(31), message, good))
    for name, public, text, signature in cases:
        valid = Signature(signature).verify(Pubkey(public), text)
        yield dict(name=name, public_key=base58(public), message_hex=text.hex(), signature=base58(signature),
                   signature_base64=base64.b64encode(signature).decode(), valid=valid)


def addresses():
    for number in range(24):
        raw = hashlib.sha256(b"osvm vector address %d" % number).digest()
        yield dict(address=str(Pubkey(raw)), hex=raw.hex(), on_curve=Pubkey(raw).is_on_curve())
    for known in (system.ID, TOKEN, TOKEN_2022, MEMO, RENT, PAYER.pubkey()):
        yield dict(address=str(known), hex=bytes(known).hex(), on_curve=known.is_on_curve())
    for y in (0, 1, 2, PRIME - 1, PRIME, PRIME + 1, 2**255 - 1, 2**255 + 1):
        raw = (y % 2**256).to_bytes(32, "little")
        yield dict(address=str(Pubkey(raw)), hex=raw.hex(), on_curve=Pubkey(raw).is_on_curve())


def derived():
    cases = [
        ([], TOKEN), ([b""], TOKEN), ([b"vault"], TOKEN), ([b"vault", bytes(A)], system.ID),
        ([bytes(range(32))], A), ([b"a", b"b", b"c"], B), ([b"abc"], B), ([bytes([n]) for n in range(15)], C),
        ([bytes(A), bytes(TOKEN), bytes(B)], Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")),
    ] + [([b"n", n.to_bytes(8, "little")], D) for n in range(24)]
    for seeds, program in cases:
        address, bump = Pubkey.find_program_address(seeds, program)
        bumps = {}
        for lower in (bump, 255, max(bump - 1, 0)):
            try:
                bumps[str(lower)] = str(Pubkey.create_program_address([*seeds, bytes([lower])], program))
            except Exception:
                bumps[str(lower)] = None
        yield dict(program_id=str(program), seeds=[seed.hex() for seed in seeds],
                   address=str(address), bump=bump, bumps=bumps)


# Accounts of the real token programs.


class Chain:
    """A Solana runtime with the token programs, and one who pays for everything."""

    def __init__(self):
        self.svm = LiteSVM()
        self.svm.airdrop(PAYER.pubkey(), 10**12)

    def run(self, instructions, *signers):
        keys = {PAYER.pubkey(): PAYER, **{signer.pubkey(): signer for signer in signers}}
        message = Message.new_with_blockhash(instructions, PAYER.pubkey(), self.svm.latest_blockhash())
        wanted = message.account_keys[: message.header.num_required_signatures]
        result = self.svm.send_transaction(VersionedTransaction(message, [keys[k] for k in wanted]))
        assert type(result).__name__ == "TransactionMetadata", result

    def room(self, keypair, space, program, extra=0):
        lamports = self.svm.minimum_balance_for_rent_exemption(space) + extra
        return system.create_account(dict(from_pubkey=PAYER.pubkey(), to_pubkey=keypair.pubkey(),
                                          lamports=lamports, space=space, owner=program))

    def data(self, keypair):
        return self.svm.get_account(keypair.pubkey()).data


def newer(tag, accounts, data=b""):
    """An instruction of Token-2022 that no library here builds. The real program runs it."""
    return Instruction(TOKEN_2022, bytes([tag]) + data, accounts)


def optional(pubkey):
    return b"\0" if pubkey is None else b"\1" + bytes(pubkey)


def state(name, data, **expect):
    return dict(name=name, base64=base64.b64encode(data).decode(), base58=base58(data),
                expect={field: plain(value) for field, value in expect.items()})


def token_accounts():
    chain, P = Chain(), PAYER.pubkey()
    for program in (TOKEN, TOKEN_2022):
        label, base = NAMES[program], (50 if program == TOKEN else 60)
        mint, owned, frozen, native, several = (key(base + n) for n in range(5))
        k = dict(program_id=program)
        blank = dict(delegate=None, delegated_amount="0", is_native=False, rent_exempt_reserve=None,
                     close_authority=None, extensions=None)
        chain.run([chain.room(mint, 82, program), token.initialize_mint2(models.InitializeMint2Params(
            decimals=6, mint=mint.pubkey(), mint_authority=P, freeze_authority=P, **k))], mint)
        for account in (owned, frozen):
            chain.run([chain.room(account, 165, program), token.initialize_account3(
                models.InitializeAccount3Params(account=account.pubkey(), mint=mint.pubkey(), owner=P, **k))], account)
        chain.run([token.mint_to(models.MintToParams(mint=mint.pubkey(), dest=owned.pubkey(), mint_authority=P, amount=10**15, **k))])
        yield state(f"{label}: mint", chain.data(mint), kind="mint", mint_authority=P, supply=str(10**15), decimals=6,
                    is_initialized=True, freeze_authority=P, extensions=None)
        yield state(f"{label}: account", chain.data(owned), kind="account", mint=mint.pubkey(), owner=P,
                    amount=str(10**15), state="initialized", **blank)
        chain.run([
            token.approve(models.ApproveParams(source=owned.pubkey(), delegate=A, owner=P, amount=77, **k)),
            token.set_authority(models.SetAuthorityParams(account=owned.pubkey(), authority=models.AuthorityType.CLOSE_ACCOUNT,
                                                          current_authority=P, new_authority=B, **k)),
        ])
        yield state(f"{label}: account with delegate and close authority", chain.data(owned), kind="account", mint=mint.pubkey(),
                    owner=P, amount=str(10**15), state="initialized",
                    **dict(blank, delegate=A, delegated_amount="77", close_authority=B))
        chain.run([token.freeze_account(models.FreezeAccountParams(account=frozen.pubkey(), mint=mint.pubkey(), authority=P, **k))])
        yield state(f"{label}: frozen account", chain.data(frozen), kind="account", mint=mint.pubkey(), owner=P, amount="0",
                    state="frozen", **blank)
        chain.run([
            token.set_authority(models.SetAuthorityParams(account=mint.pubkey(), authority=models.AuthorityType.MINT_TOKENS,
                                                          current_authority=P, new_authority=None, **k)),
            token.set_authority(models.SetAuthorityParams(account=mint.pubkey(), authority=models.AuthorityType.FREEZE_ACCOUNT,
                                                          current_authority=P, new_authority=None, **k)),
        ])
        yield state(f"{label}: mint without authorities", chain.data(mint), kind="mint", mint_authority=None, supply=str(10**15),
                    decimals=6, is_initialized=True, freeze_authority=None, extensions=None)
        if program == TOKEN:
            chain.run([chain.room(native, 165, program, extra=555), token.initialize_account3(
                models.InitializeAccount3Params(account=native.pubkey(), mint=NATIVE_MINT, owner=P, **k))], native)
            reserve = chain.svm.minimum_balance_for_rent_exemption(165)
            yield state(f"{label}: wrapped SOL", chain.data(native), kind="account", mint=NATIVE_MINT, owner=P, amount="555",
                        state="initialized", **dict(blank, is_native=True, rent_exempt_reserve=reserve))
            unwrap, unwrap_all, batch, _ = (made[0] for made in newest_instructions(TOKEN, native.pubkey(), P, P))
            chain.run([unwrap])
            chain.run([batch])
            chain.run([unwrap_all])
            *_, withdraw = (made[0] for made in newest_instructions(TOKEN, owned.pubkey(), P, P))
            chain.run([withdraw])
        chain.run([chain.room(several, 355, program), token.initialize_multisig2(
            models.InitializeMultisig2Params(m=2, multisig=several.pubkey(), signers=[A, B, C], **k))], several)
        yield state(f"{label}: multisig", chain.data(several), kind="multisig", num_required_signers=2, num_valid_signers=3,
                    is_initialized=True, signers=[A, B, C])
    yield from extended(chain)


def extended(chain):
    P = PAYER.pubkey()
    mint, account = key(62 + 8), key(62 + 9)
    writable = [AccountMeta(mint.pubkey(), False, True)]
    # Each extension: type and length in two bytes each, and its value.
    space = 166 + (4 + 32) + (4 + 0) + (4 + 32)
    init_mint = token.initialize_mint2(models.InitializeMint2Params(
        decimals=2, mint=mint.pubkey(), mint_authority=P, program_id=TOKEN_2022))
    chain.run([chain.room(mint, space, TOKEN_2022), newer(25, writable, optional(A)), newer(32, writable),
               newer(35, writable, bytes(B)), init_mint], mint)
    listed = [(3, "mintCloseAuthority", bytes(A)), (9, "nonTransferable", b""), (12, "permanentDelegate", bytes(B))]
    yield state("mint with extensions", chain.data(mint), kind="mint", mint_authority=P, supply="0", decimals=2,
                is_initialized=True, freeze_authority=None, extensions=extensions(listed))
    listed = [(7, "immutableOwner", b""), (13, "nonTransferableAccount", b"")]
    chain.run([chain.room(account, 166 + 4 + 4, TOKEN_2022), token.initialize_account3(models.InitializeAccount3Params(
        account=account.pubkey(), mint=mint.pubkey(), owner=C, program_id=TOKEN_2022))], account)
    found = state("account with extensions", chain.data(account), kind="account", mint=mint.pubkey(), owner=C, amount="0",
                  state="initialized", delegate=None, delegated_amount="0", is_native=False, rent_exempt_reserve=None,
                  close_authority=None, extensions=None)
    order = chain.data(account)[166:168]
    found["expect"]["extensions"] = extensions(listed if order == b"\7\0" else listed[::-1])
    yield found


def extensions(listed):
    return [dict(type=kind, name=name, size_bytes=len(data), data_base64=base64.b64encode(data).decode())
            for kind, name, data in listed]


def write(name, about, **content):
    text = json.dumps(dict(about=about, **content), indent=1, ensure_ascii=False)
    (HERE / name).write_text(text + "\n")


def main():
    source = "made by make.py with solders 0.29.0 and spl.token (PyPI `solana`)"
    write("transactions.json", f"transactions and what they say, {source}", transactions=list(transactions()))
    write("keys.json", f"addresses, derived addresses and signatures with solders' verdict, {source}",
          addresses=list(addresses()), derived=list(derived()), signatures=list(signatures()))
    write("token_accounts.json", f"accounts written by the real token programs in LiteSVM, {source}",
          accounts=list(token_accounts()))


main()
