"""A stored key that is an operator's has the rights of GATEWAY_API_KEY, until it is revoked."""

from __future__ import annotations

from flask.testing import FlaskClient

from app.db import get_engine
from app.db.keys import insert_key, update_key_revoked
from app.runtime import get_component
from app.services.keys import KeySnapshot, digest_of, new_key
from tests.support.gateway import GATEWAY_KEY

# A header of a remote client, because a local program needs no key for some of these paths.
ELSEWHERE = {"X-Forwarded-For": "192.0.2.1"}
# Paths that only an operator may read, and the status that others get.
PATHS = {
    "/api/activity?key=env": 403,
    "/api/activity/integrity": 403,
    "/api/usage?key=env": 403,
    "/api/catalog/gateway/all/stats?scope=all": 403,
    "/api/catalog/gateway/all/stats?key=env": 403,
    "/api/workers": 403,
    "/metrics": 401,
}


def test_operators_have_keys_of_their_own(client: FlaskClient) -> None:
    keys = {name: new_key() for name in ("operator", "user")}
    with get_engine().begin() as connection:
        for name, key in keys.items():
            values = {"id": name, "name": name, "digest": digest_of(key), "last_four": key[-4:]}
            insert_key(connection, **values, is_operator=name == "operator")
    snapshot = get_component(KeySnapshot)
    snapshot.refresh()

    def ask(path: str, key: str) -> int:
        return client.get(path, headers=ELSEWHERE | {"Authorization": f"Bearer {key}"}).status_code

    for path, refused in PATHS.items():
        assert ask(path, GATEWAY_KEY) == ask(path, keys["operator"]) == 200, path
        assert ask(path, keys["user"]) == refused, path
    for key, shows_details in ((keys["operator"], True), (keys["user"], False)):
        ready = client.get("/ready", headers=ELSEWHERE | {"x-api-key": key}).get_json()
        assert ("database" in ready) is shows_details
    own = client.get("/api/activity", headers={"Authorization": f"Bearer {keys['operator']}"})
    assert own.status_code == 200
    with get_engine().begin() as connection:
        update_key_revoked(connection, "operator")
    snapshot.refresh()
    assert {ask(path, keys["operator"]) for path in PATHS} == {401}
