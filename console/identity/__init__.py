"""Who it is and what they may do: sign-up, passwords, tokens, permissions."""

from console.identity.outcomes import (
    AlreadyInitialized,
    Authenticated,
    Busy,
    Denied,
    Login,
    Principal,
    Rejected,
    SignedUp,
    Signup,
    Throttled,
)
from console.identity.passwords import PasswordHasher
from console.identity.permissions import Access, Permission, may
from console.identity.service import IdentityService, UserStore
from console.identity.throttle import LoginThrottle, Rule

__all__ = [
    "Access",
    "AlreadyInitialized",
    "Authenticated",
    "Busy",
    "Denied",
    "IdentityService",
    "Login",
    "LoginThrottle",
    "PasswordHasher",
    "Permission",
    "Principal",
    "Rejected",
    "Rule",
    "SignedUp",
    "Signup",
    "Throttled",
    "UserStore",
    "may",
]
