"""The stores that the documents name are those that the tests run.

A test here fails if a document names a store that no test restarts, or if a promise names other stores than those its
cases run on.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.configurations import CONFIGURATIONS, EMBEDDED, Configuration
from tests.configured import SHIPPED
from tests.faults.places import PLACES
from tests.faults.registry import CASES, CONFIGURATION_OF, STORES

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "SECURITY.md",
    "ARCHITECTURE.md",
    "examples/README.md",
    "docs/clients.md",
    "docs/design.md",
    "docs/operations.md",
    "docs/promises.md",
    "docs/scale.md",
    "storage/connection/address.py",
]
ALL_STORES = {EMBEDDED, *CONFIGURATIONS}

Holds = Callable[[Configuration], bool]


def topology(name: str, tls: bool = False) -> Holds:
    return lambda store: store.topology == name and bool(store.tls) == tls


NAMED: dict[str, Holds] = {
    "redis://": lambda store: store.topology in ("one", "replica") and not store.tls and not store.socket,
    "rediss://": lambda store: store.topology == "one" and bool(store.tls),
    "unix://": lambda store: store.socket,
    "redis+sentinel://": topology("sentinels"),
    "rediss+sentinel://": topology("sentinels", tls=True),
    "redis+cluster://": topology("cluster"),
    "rediss+cluster://": topology("cluster", tls=True),
    "--appendonly yes": lambda store: store.file != "no",
    "--appendonly no": lambda store: store.file == "no",
    "--appendfsync always": lambda store: store.file == "always",
    "--appendfsync everysec": lambda store: store.file == "everysec",
    "--aclfile": lambda store: store.users,
    "--masteruser": lambda store: store.users and store.topology in ("replica", "sentinels", "cluster"),
    "--masterauth": lambda store: store.users and store.topology in ("replica", "sentinels", "cluster"),
    "--tls-port": lambda store: bool(store.tls),
    "--tls-cert-file": lambda store: bool(store.tls),
    "--tls-key-file": lambda store: bool(store.tls),
    "--tls-ca-cert-file": lambda store: bool(store.tls),
    "--tls-auth-clients no": lambda store: store.tls == "server",
    "--tls-auth-clients yes": lambda store: store.tls == "mutual",
    "--tls-replication yes": lambda store: bool(store.tls) and store.topology == "sentinels",
    "--tls-cluster yes": lambda store: bool(store.tls) and store.topology == "cluster",
    "sentinel_username": lambda store: store.users and store.topology == "sentinels",
    "memory": lambda store: "memory" in levels(store),
    "fsync": lambda store: "fsync" in levels(store),
    "replicas:N": lambda store: "replicas:1" in levels(store),
    "replicas:1": lambda store: "replicas:1" in levels(store),
}
"""What a document may name about a store, and which configurations have it."""

URL = re.compile(r"\b((?:redis|valkey|unix)s?(?:\+\w+)?://)")
OPTION = re.compile(
    r"--((?:append|acl|tls|save|repl|master|primary|cluster|require|user\b)[\w-]*(?: (?:yes|no|always|everysec)\b)?)"
)
FSYNC = re.compile(r"\bappendfsync (\w+)")
LEVEL = re.compile(
    r"--durability[= ]([a-z]+(?::\w+)?)|`(replicas:\w+)`|^\| `(\w+)` \| (?:in the store's memory|on the store's disk)",
    re.M,
)
SENTINEL = re.compile(r"\b(sentinel_username)=")
FILE = re.compile(r"examples/([\w-]+)\.acl")
NOT_A_STORE = {"--cluster", "--user"}
"""Options of redis-cli."""


def levels(store: Configuration) -> set[str]:
    return {store.durability(kind) for kind in store.kinds}


def named(text: str) -> set[str]:
    """What a document names about stores."""
    found = set(URL.findall(text)) | set(SENTINEL.findall(text))
    found |= {f"--{option}" for option in OPTION.findall(text)}
    found |= {f"--appendfsync {policy}" for policy in FSYNC.findall(text)}
    found |= {next(filter(None, groups)) for groups in LEVEL.findall(text)}
    return found - NOT_A_STORE


def documents() -> str:
    return "\n".join((ROOT / name).read_text() for name in DOCUMENTS)


def table(document: str, heading: str) -> list[list[str]]:
    """The rows of the first table under a heading of a document, without the header."""
    text = (ROOT / document).read_text()
    lines = iter(text[text.index(f"{heading}\n") :].splitlines())
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif rows:
            break
    return rows[2:]


def test_every_store_that_the_documents_name_is_tested() -> None:
    """Each kind of address, option and durability level belongs to a configuration that is tested."""
    for name in sorted(named(documents())):
        assert name in NAMED, f"{name} is documented, but no store in tests/configurations.py has it"
        assert any(NAMED[name](store) for store in CONFIGURATIONS.values()), f"no store has {name}"


@pytest.mark.parametrize(
    ("sentence", "name"),
    [
        ("`--redis-url valkeys://host`", "valkeys://"),
        ("Or with `--appendfsync no`.", "--appendfsync no"),
        ("where appendfsync sometimes is set", "--appendfsync sometimes"),
        ("Give it `--durability quorum:2`.", "quorum:2"),
        ("start it with `--tls-auth-clients optional`", "--tls-auth-clients"),
        ("and `--requirepass secret`", "--requirepass"),
        ("redis+ring://a,b", "redis+ring://"),
    ],
)
def test_a_documented_store_without_a_test_would_be_found(sentence: str, name: str) -> None:
    assert named(sentence) - NAMED.keys() == {name}


def test_the_table_of_stores_has_a_row_for_each_store_that_is_tested_and_no_other() -> None:
    rows = table("docs/operations.md", "## Which store")
    assert sorted(name for first, *_ in rows for name in re.findall(r"`([\w-]+)`", first)) == sorted(ALL_STORES)


def test_each_store_is_restarted_and_killed_by_a_fault_case() -> None:
    """The cases cover every kind of server of each configuration, and have no other places."""
    places = {place for case in CASES if STORES in case.promises for place in case.places}
    assert {CONFIGURATION_OF[place] for place in places} == ALL_STORES
    assert {f"{store.name}-{kind}" for store in CONFIGURATIONS.values() for kind in store.kinds} <= places
    assert CONFIGURATION_OF.keys() == PLACES.keys()
    assert set(CONFIGURATION_OF.values()) == ALL_STORES


def test_the_shipped_acl_files_are_those_that_the_tests_use() -> None:
    shipped = {path.stem for path in (ROOT / "examples").glob("*.acl")}
    assert shipped == {*SHIPPED, "sentinel"}
    assert set(FILE.findall(documents())) == shipped


def test_each_promise_names_the_stores_its_cases_run_on() -> None:
    """Each case also proves a promise."""
    left = {promise for case in CASES for promise in case.promises}
    for sentence, _, cell in table("docs/promises.md", "# What you can rely on"):
        named_stores = set(re.findall(r"`([\w-]+)`", cell)) if cell not in ("any", "all") else {cell}
        promise = next((name for name in left if sentence.startswith(name)), None)
        if promise is None:
            assert named_stores <= {"any"} | ALL_STORES, sentence
            assert named_stores, sentence
            continue
        left.discard(promise)
        run = frozenset[str]().union(*(case.configurations for case in CASES if promise in case.promises))
        assert named_stores == ({"all"} if run == ALL_STORES else run), sentence
    assert not left, "docs/promises.md has no promise that begins like this"


def test_the_readme_makes_ten_promises_and_each_links_to_its_proof() -> None:
    rows = table("README.md", "## What you can rely on")
    assert len(rows) == 10
    for promise, proof in rows:
        assert re.search(r"\]\(tests/", proof), promise
