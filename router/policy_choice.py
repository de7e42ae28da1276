"""The policy that a configuration asks for."""

from __future__ import annotations

from random import Random

from router.config import Config
from router.policies import Policy, PolicyConfig, build_policy
from router.policy_file import PolicyFile, load_policy


def policy_config(config: Config) -> PolicyConfig:
    """The settings of policies, which have the names of their flags."""
    names = PolicyConfig.__struct_fields__
    return PolicyConfig(**{name: getattr(config, name) for name in names})


def chosen_policy(config: Config, random: Random) -> Policy:
    """The policy of `--policy`, fresh. Raises PolicyFileError."""
    if isinstance(config.policy, PolicyFile):
        return load_policy(config.policy, policy_config(config), random)
    return build_policy(config.policy.value, policy_config(config), random)
