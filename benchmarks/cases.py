"""All cases by name."""

import networks
import operators
from case import Case

CASES: dict[str, Case] = operators.CASES | networks.CASES
