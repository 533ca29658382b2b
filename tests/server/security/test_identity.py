"""Which learners a caller may act for, and which scopes it has."""

import pytest

from playhead.protocol.errors import PeerError, Problem
from playhead.server.security.identity import ANALYTICS, ANYBODY, PROGRESS_ANY, Identity

USER, OTHER = "7d1a0e7c-0b1f-4b7e-9f6e-3f0a52a4c001", "7d1a0e7c-0b1f-4b7e-9f6e-3f0a52a4c002"
LEARNER = Identity(USER, USER, frozenset())
SERVICE = Identity("a service", None, frozenset((PROGRESS_ANY,)))


def test_a_learner_acts_for_themselves_only() -> None:
    assert LEARNER.act_for(None) == USER
    assert LEARNER.act_for(USER) == USER
    with pytest.raises(PeerError, match="another user") as refused:
        LEARNER.act_for(OTHER)
    assert refused.value.problem is Problem.FORBIDDEN


@pytest.mark.parametrize("identity", [SERVICE, ANYBODY], ids=["a service", "without tokens"])
def test_a_caller_without_a_learner_id_names_the_learner(identity: Identity) -> None:
    assert identity.act_for(OTHER) == OTHER
    with pytest.raises(PeerError, match="should be given"):
        identity.act_for(None)


def test_a_missing_scope_is_named() -> None:
    SERVICE.require(PROGRESS_ANY)
    with pytest.raises(PeerError, match="needs the scope analytics") as refused:
        SERVICE.require(ANALYTICS)
    assert refused.value.problem is Problem.FORBIDDEN
