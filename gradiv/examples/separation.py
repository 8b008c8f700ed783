def check_loss(*a): pass
