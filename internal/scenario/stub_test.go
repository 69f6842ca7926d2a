package scenario_test

var redisFaults, networkFaults []fault
