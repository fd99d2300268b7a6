from wsseg_core.base.machine import machine, machine_text
from wsseg_core.base.parallel import cpu_count


def test_a_machine_has_a_name_and_cores() -> None:
    facts = machine()
    assert facts["model"]
    assert facts["cores"] == cpu_count()
    assert isinstance(facts["bfloat16"], bool)


def test_words_for_a_caption() -> None:
    facts = {"model": "Fast 3", "cores": 1, "bfloat16": False}
    assert machine_text(facts) == "Fast 3, 1 core, without bfloat16"
    assert machine_text({**facts, "cores": 2, "bfloat16": True}) == "Fast 3, 2 cores, with bfloat16"
    assert machine_text(None) == "a machine that was not recorded"
