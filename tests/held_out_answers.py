"""What a fold's network says of its val cases, put beside a checkpoint that was never trained."""

import json

from mttu.patients import derive_key, name_patients
from mttu.training.held_out import HeldOut, write_held_out

KEY = derive_key(["the cohort"])


def keep_answers(folder, manifest, answer, learned_from=None):
    """Lets the checkpoint in `folder` have learned from the train cases, and say `answer(case)` of the val cases."""
    path = folder / "best" / "checkpoint.json"
    content = json.loads(path.read_text())
    taught = {case.patient_id for case in manifest.split("train")} if learned_from is None else learned_from
    path.write_text(json.dumps({**content, "patients": name_patients(taught, KEY).to_json()}))
    known = [case for case in manifest.split("val") if case.idh >= 0]
    write_held_out(folder, [HeldOut(case.case_id, case.idh, answer(case), case.patient_id) for case in known])
