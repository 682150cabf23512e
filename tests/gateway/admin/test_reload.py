"""`/config/reload` and `/config/status`: what is answered, and to whom."""

from __future__ import annotations

from pathlib import Path

from tests.harness import FakeProvider, Gateway, config_for, gateway

MASTER = "sk-qz9master-0001"
ADMIN = {"authorization": f"Bearer {MASTER}"}


async def test_what_changed(provider: FakeProvider, tmp_path: Path) -> None:
    """The answer says what changed, old and new; of secrets only that they did."""

    def text(retries: int, key: str) -> str:
        return config_for(
            provider,
            general_settings={"master_key": MASTER},
            router_settings={"num_retries": retries},
            virtual_keys=[{"key": key}],
        )

    async with gateway(text(0, "sk-qz9virtual-0001"), tmp_path) as gw:
        (tmp_path / "config.yaml").write_text(text(3, "sk-qz9virtual-0002"))
        answer = await gw.post("/config/reload", {}, headers=ADMIN)
        body = await answer.json()
        assert (answer.status, body["status"], body["problems"]) == (200, "ok", [])
        assert body["differences"] == [
            {"of": "setting", "name": "router_settings.num_retries", "how": "changed", "old": 0, "new": 3},
            {"of": "virtual_key", "name": "sk-...0001", "how": "removed"},
            {"of": "virtual_key", "name": "sk-...0002", "how": "added"},
        ]
        status = await (await gw.get("/config/status", headers=ADMIN)).json()
        assert status["hash"] == body["hash"]
        assert list(status["files"]) == [str(tmp_path / "config.yaml")]
        assert status["last_reload"]["why"] == "POST /config/reload"


async def test_a_bad_file(provider: FakeProvider, tmp_path: Path) -> None:
    """A file that cannot be used is 400 with all its problems, each with file, line and column, and without secrets."""
    async with gateway(config_for(provider, general_settings={"master_key": MASTER}), tmp_path) as gw:
        path = tmp_path / "config.yaml"
        path.write_text(f"model_list: 7\ngeneral_settings:\n  master_key: {MASTER}\n  rpm_limit: {MASTER}\n")
        answer = await gw.post("/config/reload", {}, headers=ADMIN)
        body = await answer.json()
        assert answer.status == 400
        assert body["error"]["code"] == "config_invalid"
        places = [(p["file"], p["line"], p["column"], p["path"]) for p in body["problems"]]
        assert places == [
            (str(path), 1, 13, "model_list"),
            (str(path), 4, 14, "general_settings.rpm_limit"),
        ]
        assert MASTER not in await answer.text()
        assert MASTER not in await (await gw.get("/health", headers=ADMIN)).text()


async def test_who_may(gw: Gateway, provider: FakeProvider, tmp_path: Path) -> None:
    """Only administrators may reload and see which files there are."""
    foreign = {"x-forwarded-for": "203.0.113.9"}
    assert (await gw.post("/config/reload", {}, headers=foreign)).status == 403
    assert (await gw.get("/config/status", headers=foreign)).status == 403
    health = await (await gw.get("/health", headers=foreign)).json()
    assert "config" not in health


async def test_without_a_source(gw: Gateway) -> None:
    """A gateway that was made from a configuration in memory has nothing to reload, and says so."""
    gw.rt.reloader = None
    assert (await gw.post("/config/reload", {})).status == 409
