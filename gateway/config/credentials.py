"""`credential_list`: keys and addresses under a name, for entries that would otherwise repeat them.

    credential_list:
      - credential_name: our-azure
        credential_values: {api_key: os.environ/AZURE_KEY, api_base: "https://x.openai.azure.com"}
        credential_info: {description: production}

The values are the words of `litellm_params`; each is read as it is read there. All are kept as secrets, because they travel
together; `gateway.named_credentials` says what becomes of them.
"""

from __future__ import annotations

from gateway.config.model import NamedCredential, Secret
from gateway.config.nodes import Item, Mapping, Node, Sequence, join
from gateway.config.problems import closest
from gateway.config.values import Reader, is_null
from gateway.config.vocabulary import CREDENTIAL, CREDENTIAL_VALUES

_KEYS = {key.name for key in CREDENTIAL}


def read_credentials(top: dict[str, Item], reader: Reader) -> list[NamedCredential]:
    """The named credentials of a file's top level; what is wrong is reported."""
    node = top["credential_list"].value if "credential_list" in top else None
    if node is None or is_null(node):
        return []
    if not isinstance(node, Sequence):
        message = "must be a list of credentials, each beginning with a dash"
        reader.report.error(node.place, "credential_list", message)
        return []
    found: dict[str, NamedCredential] = {}
    for index, item in enumerate(node.items):
        path = join("credential_list", index)
        credential = _credential(item, path, reader)
        if credential is not None and credential.name in found:
            reader.report.error(item.place, path, f'the name "{credential.name[:60]}" is taken already')
        elif credential is not None:
            found[credential.name] = credential
    return list(found.values())


def _credential(node: Node, path: str, reader: Reader) -> NamedCredential | None:
    report = reader.report
    if not isinstance(node, Mapping) or "credential_name" not in node.items:
        report.error(node.place, path, "must be a mapping with credential_name and credential_values")
        return None
    for key, item in node.items.items():
        if key not in _KEYS:
            report.doubt(item.place, path, f'unknown key "{key}"', closest(key, _KEYS))
    name = reader.text(node.items["credential_name"].value, join(path, "credential_name"))
    if not name:
        report.error(node.items["credential_name"].place, path, "credential_name has no value")
        return None
    reader.unset.clear()
    values: dict[str, Secret] = {}
    written = node.items["credential_values"].value if "credential_values" in node.items else None
    if isinstance(written, Mapping):
        values = _values(written, join(path, "credential_values"), reader)
    else:
        report.error(node.place, path, "credential_values must be a mapping")
    unset = tuple(dict.fromkeys(variable for _, variable in reader.unset))
    info = None
    if "credential_info" in node.items:
        info = reader.object(node.items["credential_info"].value, join(path, "credential_info"))
    return NamedCredential(name=name, values=values, info=info or {}, place=node.place, unset=unset)


def _values(node: Mapping, path: str, reader: Reader) -> dict[str, Secret]:
    values: dict[str, Secret] = {}
    for word, item in node.items.items():
        kind = CREDENTIAL_VALUES.get(word)
        if kind is None:
            hint = closest(word, CREDENTIAL_VALUES)
            reader.report.doubt(item.place, path, f'no credential says "{word}"', hint)
            continue
        value = reader.read(kind, item.value, join(path, word))
        if value is not None:
            values[word] = value if isinstance(value, Secret) else Secret(value)
    return values
