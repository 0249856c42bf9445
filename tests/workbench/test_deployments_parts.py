"""What pages say of uploaded models."""

from typing import Any

import pytest

from engine.deployment import Deployment
from engine.times import now
from workbench.client_deployments import Standing
from workbench.views.deployments_parts import bars


@pytest.mark.parametrize(("usage", "silent"), [({}, False), ({"answers": True}, False), ({"answers": False}, True)])
def test_a_model_that_does_not_answer_is_said_to(usage: dict[str, Any], silent: bool) -> None:
    deployment = Deployment(model="m", version="v", plan="nano", schedule="", wanted="running", state="running",
                            restarts=0, next_at=None, run="r", error=None, by="", changed_at=now())
    text = bars(Standing(deployment=deployment, usage={"memory": 2**24, **usage}), {"memory": 512, "cpu": 250}, 0.1)
    assert ("does not answer" in text) is silent and "16 of 512 MiB" in text
