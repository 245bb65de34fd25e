"""Pictures that are protected, what their protections are trained on, and the copies that learners make of them."""
