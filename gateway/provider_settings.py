"""What it takes to ask a provider: its address, its key, its own settings, a signer; and what of that is missing.

An entry of `model_list` says it, else the environment does, else the provider's row. Nothing is looked up anywhere else: whether
a key is any good, the provider says.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping

from adapters.types import Provider
from gateway.config.google import project_of
from gateway.config.model import ModelParams, Secret
from gateway.config.values import problem_of_url
from gateway.config.vocabulary import SECRET_OPTIONS

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_PACKAGES = {
    "google": ("google.auth", "google"),
    "aws": ("botocore", "aws"),
    "azure_identity": ("azure.identity", "azure"),
}
"""What a signer imports, and the extra that installs it."""

_OWN_CREDENTIALS = frozenset(
    {"aws_access_key_id", "aws_profile_name", "aws_role_name", "aws_web_identity_token", "vertex_credentials"}
)
"""Options that are credentials of another kind than a key."""

_ENTRA = (
    {"azure_ad_token"},
    {"tenant_id", "client_id", "client_secret"},
    {"client_id", "azure_username", "azure_password"},
)
"""What is enough for a token of Entra ID, without a library."""

_OF_GOOGLE = ("vertex_project", "vertex_credentials")
"""Either is enough to ask Vertex AI: credentials are found without being named, and name a project themselves."""

_OF_AWS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN")
"""Variables that say that botocore will find credentials."""


class ProviderSettings:
    """The settings of deployments in one environment. `renews_entra`: Azure without a key is asked with what the machine has."""

    def __init__(self, environ: Mapping[str, str], *, renews_entra: bool) -> None:
        self._environ = environ
        self._renews_entra = renews_entra

    def options(self, params: ModelParams, provider: Provider) -> dict[str, str | Secret]:
        """The provider's own settings: as written, else from the environment, else the provider's defaults."""
        found: dict[str, str | Secret] = dict(provider.option_defaults)
        for name, variables in provider.option_env.items():
            value = next(
                (self._environ[variable] for variable in variables if self._environ.get(variable)), None
            )
            if value is not None:
                found[name] = Secret(value) if name in SECRET_OPTIONS else value
        if params.region_name and "aws_region_name" in provider.option_env:
            found["aws_region_name"] = params.region_name
        if self._renews_entra and "azure_credential" in provider.option_env:
            found.setdefault("azure_credential", "default")
        found |= params.options
        if "vertex_project" in provider.option_env and "vertex_project" not in found:
            given = found.get("vertex_credentials", "")
            project = project_of(given.reveal() if isinstance(given, Secret) else given, self._environ)
            found |= {"vertex_project": project} if project else {}
        return found

    def base_url(self, params: ModelParams, provider: Provider) -> str:
        """The address, if it is not the provider's usual one."""
        own = params.options.get("aws_bedrock_runtime_endpoint")
        named = own if isinstance(own, str) and provider.name == "bedrock" else ""
        return params.api_base or named or _base_from(provider, self._environ)

    def key(self, params: ModelParams, provider: Provider) -> Secret | None:
        """What was written, else the environment's, unless the deployment names credentials of another kind."""
        if params.api_key:
            return params.api_key
        if not _OWN_CREDENTIALS.isdisjoint(params.options):
            return None
        for variable in provider.env:
            if value := self._environ.get(variable):
                return Secret(value)
        return None

    def lacks(self, params: ModelParams, provider: Provider, unset: tuple[str, ...]) -> str:
        """Why it cannot be served, empty if it can."""
        if unset:
            return f"{', '.join(unset)} is not set"
        options = self.options(params, provider)
        signer = signer_of(provider, self.key(params, provider), options)
        package = _PACKAGES.get(signer)
        if package is not None and not _is_installed(package[0]):
            return f"it needs a package that is not installed: pip install 'penstock[{package[1]}]'"
        if signer == "google" and "vertex_project" not in options:
            return f"vertex_project is not set ({' or '.join(provider.option_env['vertex_project'])})"
        if not self.base_url(params, provider):
            missing = next(
                (name for name in _PLACEHOLDER.findall(provider.base_url) if name not in options), None
            )
            if missing is not None:
                return f"{missing} is not set ({' or '.join(provider.option_env.get(missing, ()))})"
        named = {name: value for name, value in options.items() if isinstance(value, str)}
        base = self.base_url(params, provider) or filled(provider.base_url, named)
        if not base:
            names = " or ".join(provider.base_env) or "api_base"
            return f"{provider.name} needs a base URL: set api_base or {names}"
        if problem := problem_of_url(base):
            return f"its address {problem}"
        needs_key = provider.env and "optional_key" not in provider.quirks
        # A server of the operator's own may need no key.
        if params.api_base or not needs_key or self.key(params, provider) or signer:
            return ""
        return f"no key: set api_key or {' or '.join(provider.env)}"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it
        return False


def filled(base_url: str, options: Mapping[str, str]) -> str:
    """The address with settings in the places of their names; nothing where there is none."""
    return _PLACEHOLDER.sub(lambda found: options.get(found[1], ""), base_url)


def signer_of(provider: Provider, key: Secret | None, options: Mapping[str, str | Secret]) -> str:
    """Which kind of signer a deployment needs; empty where its key is all."""
    if provider.auth == "iam":
        return "iam"
    if provider.auth in {"google", "aws"}:
        return "" if key else provider.auth
    if provider.name in {"azure", "azure_ai"} and not key:
        if any(options.keys() >= needed for needed in _ENTRA):
            return "entra"
        return "azure_identity" if "azure_credential" in options else ""
    return ""


def is_set_up(provider: Provider, environ: Mapping[str, str]) -> bool:
    """Whether the environment alone is enough to ask it."""
    if problem_of_base(provider, environ):
        return False
    base = _base_from(provider, environ)
    options = {
        option: ""
        for option, names in provider.option_env.items()
        if any(environ.get(name) for name in names)
    }
    credentials = (*provider.env, *_OF_AWS) if provider.auth == "aws" else provider.env
    if any(environ.get(name) for name in credentials):
        missing = set(_PLACEHOLDER.findall(provider.base_url)) - {*options, *provider.option_defaults}
        return bool(base or (provider.base_url and not missing))
    if provider.auth == "google":
        return not options.keys().isdisjoint(_OF_GOOGLE)
    needs_no_key = not provider.env or "optional_key" in provider.quirks
    return bool(base) and (needs_no_key or signer_of(provider, None, options) in {"entra", "azure_identity"})


def problem_of_base(provider: Provider, environ: Mapping[str, str]) -> str:
    """What is wrong with the environment's address for it, empty if nothing is."""
    name = _base_variable(provider, environ)
    problem = problem_of_url(environ[name]) if name else ""
    return f"{name} {problem}" if problem else ""


def _base_from(provider: Provider, environ: Mapping[str, str]) -> str:
    name = _base_variable(provider, environ)
    return environ[name] if name else ""


def _base_variable(provider: Provider, environ: Mapping[str, str]) -> str:
    return next((name for name in provider.base_env if environ.get(name)), "")
