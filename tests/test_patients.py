"""A network's patients can be asked for, not listed: keyed, slow digests in the files beside its weights."""

import json
import time

import pytest

from mttu.errors import InputError
from mttu.networks.checkpoint import read_learned_from
from mttu.networks.ensemble import read_known_patients
from mttu.patients import (
    PatientKey,
    derive_key,
    digest_bare,
    drop_patients,
    known_by_digest,
    name_patients,
    read_patients,
)

KEY, OTHER = derive_key(["a", "b"]), derive_key(["c"])


def through_json(known):
    return read_patients(json.loads(json.dumps(known.to_json())))


def test_a_set_answers_for_an_id_and_holds_none():
    known = name_patients(["1234567", "7654321"], KEY)
    assert through_json(known) == known
    assert known.find(["1234567", "1111111"]) == {"1234567"}
    assert "1111111" not in known
    for name in ("1234567", "7654321"):
        assert name not in json.dumps(known.to_json())
        assert digest_bare(name) not in json.dumps(known.to_json())


def test_an_id_has_another_digest_under_another_key_and_is_found_under_each():
    first, second = name_patients(["1"], KEY), name_patients(["1", "2"], OTHER)
    assert dict(first.groups)[KEY].isdisjoint(dict(second.groups)[OTHER])
    both = through_json(first | second | known_by_digest([digest_bare("3")]))
    assert both.find(["1", "2", "3", "4"]) == {"1", "2", "3"}
    assert first | second == second | first
    assert first | name_patients(["2"], KEY) == name_patients(["1", "2"], KEY)


def test_the_key_follows_the_content_and_not_its_order():
    assert KEY == derive_key(["b", "a"]) != OTHER
    assert (KEY.n, KEY.r, KEY.p) == (2**14, 8, 1)


def test_a_try_takes_time():
    started = time.process_time()
    name_patients([f"try-{number}" for number in range(4)], KEY)
    assert time.process_time() - started > 4 * 0.01  # SHA-256 takes a millionth of a second


def test_digests_of_an_earlier_version_are_read_and_checked(tiny_checkpoint, tmp_path):
    content = json.loads((tiny_checkpoint / "checkpoint.json").read_text())
    path = tmp_path / "checkpoint.json"
    path.write_text(json.dumps(content | {"learned_from": ["3b1ef1c5e9aa3a9b", digest_bare("P-1")]}))
    assert read_learned_from(tmp_path).find(["P-1", "P-2"]) == {"P-1"}
    assert read_known_patients(tmp_path) == read_learned_from(tmp_path)
    path.write_text(json.dumps(content))
    assert read_learned_from(tmp_path) is None


def with_costs(n, r, p, salt="00" * 8):
    return [{"scrypt": {"salt": salt, "n": n, "r": r, "p": p}, "digests": []}]


@pytest.mark.parametrize(("n", "r", "p"), [(2, 1, 1), (2**15, 1, 1), (2**15, 8, 1), (2, 2**15, 1), (2, 1, 2**8)])
def test_costs_that_are_read_can_be_borne(n, r, p):
    assert "P-1" not in read_patients(with_costs(n, r, p))


@pytest.mark.parametrize(
    ("patients", "reason"),
    [
        ("P-1", "expected a list"),
        ([{"digests": "x"}], "expected digests"),
        ([{"scrypt": {"salt": "00" * 16}, "digests": []}], "expected salt, n, r and p"),
        (with_costs(2**40, 8, 1), "whole numbers of 1 to 8388608"),
        (with_costs(2**14, 8, 1.0), "whole numbers of 1 to 8388608"),
        (with_costs(2**14, 0, 1), "whole numbers of 1 to 8388608"),
        (with_costs(3, 8, 1), "expected n a power of two"),
        (with_costs(1, 8, 1), "expected n a power of two from 2"),  # otherwise scrypt would raise later
        (with_costs(2**16, 1, 1), r"below 2\*\*\(16 r\)"),  # likewise
        (with_costs(2**16, 8, 1), r"r \* \(n \+ p \+ 2\) at most 270336"),
        (with_costs(2, 2**17, 1), r"r \* \(n \+ p \+ 2\) at most 270336"),
        (with_costs(2, 1, 2**22), r"r \* \(n \+ p \+ 2\) at most 270336"),
        ([one for salt in range(5) for one in with_costs(2, 1, 2**18, f"{salt:016x}")], "adds up to 10485760"),
        (with_costs(2**14, 8, 65), r"n \* r \* p of scrypt adds up to 8519680 over all keys; expected at most 8388608"),
        (with_costs(2**14, 8, 1) + with_costs(2**14, 8, 64, "11" * 8), "adds up to 8519680"),
        ([{"scrypt": {"salt": "zz", "n": 16, "r": 8, "p": 1}, "digests": []}], "not hexadecimal"),
        ([{"scrypt": vars(KEY), "digests": []}] * 99, "99 keys; expected at most 64"),
    ],
)
def test_costs_that_would_stop_the_reader_are_refused(tmp_path, patients, reason):
    (tmp_path / "checkpoint.json").write_text(json.dumps({"format_version": 2, "patients": patients}))
    with pytest.raises(InputError, match=rf"checkpoint\.json: damaged \(.*{reason}.*; restore it from a copy"):
        read_learned_from(tmp_path)


def test_costs_of_all_members_of_an_ensemble_are_bounded_together(tmp_path):
    members = [{"folder": f"member_{place}", "weights_sha256": "", "config_sha256": ""} for place in (1, 2)]
    (tmp_path / "ensemble.json").write_text(json.dumps({"format_version": 1, "members": members}))
    for place, salt in ((1, "00" * 8), (2, "11" * 8)):
        (tmp_path / f"member_{place}").mkdir()
        content = json.dumps({"format_version": 2, "patients": with_costs(2**14, 8, 40, salt)})
        (tmp_path / f"member_{place}" / "checkpoint.json").write_text(content)
    with pytest.raises(
        InputError, match=r"its members name more patients together .*adds up to 10485760 over all keys"
    ):
        read_known_patients(tmp_path)
    (tmp_path / "member_2" / "checkpoint.json").write_text(content.replace("11" * 8, "00" * 8))
    assert read_known_patients(tmp_path).work == 40 * 2**17


def test_what_goes_to_others_says_nothing_of_them():
    checkpoint = {"metrics": {}, "patients": name_patients(["1"], PatientKey("00" * 8, n=2)).to_json()}
    assert drop_patients(checkpoint) == {"metrics": {}}
    assert drop_patients({"metrics": {}, "learned_from": ["x"]}) == {"metrics": {}}
    kept = {"calibration": {}, "patients": ["x"]}
    assert drop_patients(kept) == {"calibration": {}, "patients": None}  # None, not an empty list: unknown, not nobody


def test_there_is_room_for_one_more_key_where_that_would_still_be_read():
    known = read_patients([one for number in range(63) for one in with_costs(2, 1, 1, f"{number:016x}")])
    assert known.has_room
    assert not (known | name_patients([], KEY) | read_patients(with_costs(2, 1, 1, "ff" * 8))).has_room
    assert read_patients(with_costs(2**14, 8, 63)).has_room
    assert not read_patients(with_costs(2**14, 8, 64)).has_room
