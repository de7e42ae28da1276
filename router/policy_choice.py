"""The policies that a configuration asks for."""

from __future__ import annotations

from random import Random

from router.config import Config
from router.policies import REGISTRY, Policy, PolicyConfig, build_policy
from router.policy_file import PolicyFile, load_policy
from router.policytype import PolicyType

PolicyChoice = PolicyType | PolicyFile


def policy_config(config: Config) -> PolicyConfig:
    """The settings of policies, which have the names of their flags."""
    names = PolicyConfig.__struct_fields__
    return PolicyConfig(**{name: getattr(config, name) for name in names})


def built_policy(choice: PolicyChoice, config: Config, random: Random) -> Policy:
    """A fresh policy. Raises PolicyFileError."""
    if isinstance(choice, PolicyFile):
        return load_policy(choice, policy_config(config), random)
    return build_policy(choice.value, policy_config(config), random)


def chosen_policy(config: Config, random: Random) -> Policy:
    """The policy of `--policy`, fresh. Raises PolicyFileError."""
    return built_policy(config.policy, config, random)


class Policies:
    """The policies in use, one object for each kind: models that are routed alike share what it
    knows. `all` grows when another kind is asked for.

    Raises PolicyFileError for `--policy`.
    """

    def __init__(self, config: Config, random: Random) -> None:
        self._config = config
        self._random = random
        self._built: dict[PolicyChoice, Policy] = {}
        self.all: list[Policy] = []
        self.default = self.of(config.policy)

    def of(self, choice: PolicyChoice) -> Policy:
        """Raises PolicyFileError."""
        policy = self._built.get(choice)
        if policy is None:
            # Its own randomness, so that nothing else draws between its choices.
            seed = self._config.policy_seed
            random = self._random if seed is None else Random(seed)
            policy = self._built[choice] = built_policy(choice, self._config, random)
            self.all.append(policy)
        return policy

    def named(self, name: str) -> Policy | None:
        """One of the usual policies; None where none has that name."""
        return self.of(PolicyType(name)) if name in REGISTRY else None
