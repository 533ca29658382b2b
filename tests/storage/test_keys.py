"""Names of keys and channels: what belongs together is in one partition, and a name tells what it is of."""

from fnmatch import fnmatchcase
from uuid import UUID

import pytest

from playhead.storage.keys import TAGS, VIDEO_SHARDS, Keys, id_of, partition

USER, VIDEO = str(UUID(int=1)), str(UUID(int=2))
CLUSTERED = Keys("ph", VIDEO_SHARDS)


def tag(key: str) -> str:
    """The hash tag of a key, by which a cluster finds its slot."""
    return key[key.index("{") : key.index("}") + 1]


def test_a_partition_is_one_of_256_and_has_a_tag() -> None:
    names = [str(UUID(int=number)) for number in range(5_000)]
    assert len({partition(name) for name in names}) == 256
    assert {f"{{{kind}{partition(name)}}}" for name in names for kind in "uv"} == set(TAGS)


def test_a_learners_keys_are_in_one_partition() -> None:
    keys = Keys("ph")
    assert tag(keys.progress(USER)) == tag(keys.push(USER)) == f"{{u{partition(USER)}}}"


@pytest.mark.parametrize("keys", [Keys("ph"), CLUSTERED], ids=["one", "cluster"])
def test_a_shards_keys_are_in_one_partition(keys: Keys) -> None:
    for shard in keys.shards(VIDEO):
        names = [*keys.of_shard(shard), keys.before(shard)]
        assert {tag(name) for name in names} == {f"{{v{partition(shard)}}}"}
        assert keys.of_shard(shard) == (keys.audience(shard), keys.summary(shard), keys.curve(shard), keys.live(shard))


def test_one_server_has_one_shard_named_after_the_video() -> None:
    keys = Keys("ph")
    assert keys.shards(VIDEO) == [keys.shard(VIDEO, USER)] == [VIDEO]
    assert keys.video_of(VIDEO) == VIDEO


def test_every_viewer_is_in_one_of_the_videos_shards() -> None:
    viewers = [str(UUID(int=number)) for number in range(1_000)]
    shards = CLUSTERED.shards(VIDEO)
    assert len(shards) == VIDEO_SHARDS
    assert {CLUSTERED.shard(VIDEO, viewer) for viewer in viewers} == set(shards)
    assert {CLUSTERED.video_of(shard) for shard in shards} == {VIDEO}


def test_the_shard_of_a_viewer_is_the_same_in_every_release() -> None:
    """The viewer's entry is stored there."""
    assert CLUSTERED.shard(VIDEO, USER) == f"{VIDEO}.15"
    assert partition(USER) == "1f"


def test_an_id_is_found_in_its_key() -> None:
    keys = Keys("my-prefix.2")
    assert id_of(keys.progress(USER)) == USER
    assert id_of(keys.catalogue(VIDEO)) == VIDEO
    assert id_of(keys.audience(f"{VIDEO}.3")) == f"{VIDEO}.3"
    assert id_of(keys.progress("a:b")) == "a:b", "also an id with the separator in it"


def test_prefixes_do_not_share_a_name() -> None:
    one, other = (Keys(prefix) for prefix in ("a", "b"))
    for name in ("progress", "push", "audience", "summary", "curve", "live", "before", "released", "catalogue"):
        assert getattr(one, name)(USER) != getattr(other, name)(USER)
    assert (one.epoch, one.ended, one.fence("w")) != (other.epoch, other.ended, other.fence("w"))


def test_a_fence_is_in_the_slot_of_its_tag() -> None:
    keys = Keys("ph")
    assert keys.fence("w1") == "ph:fence:w1"
    assert tag(keys.fence("w1", "{u0f}")) == "{u0f}"
    assert keys.fence("w1", "{u0f}") != keys.fence("w2", "{u0f}")


def test_a_pattern_matches_all_keys_of_a_kind_and_no_others() -> None:
    keys = Keys("ph")
    assert fnmatchcase(keys.progress(USER), keys.all_of("u", "progress"))
    assert not fnmatchcase(keys.push(USER), keys.all_of("u", "progress"))
    assert not fnmatchcase(keys.audience(VIDEO), keys.all_of("u", "audience"))
    assert not fnmatchcase(Keys("pho").progress(USER), keys.all_of("u", "progress"))
