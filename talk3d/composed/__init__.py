"""Fast forms of the operators, made of torch calls alone: implementation ``"torch"``, on any device."""
