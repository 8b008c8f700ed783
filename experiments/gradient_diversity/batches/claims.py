"""The claims of Yin et al. 2018 about batch sizes."""
def claims(config, reduced):
  return []
