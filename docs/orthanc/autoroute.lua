-- Send every new radiograph to cxr-listener, whatever its view: the listener decides and records why.
-- Results come back from the AE title CXR; they, and everything else that is no radiograph, stay here.
function OnStoredInstance(instanceId, tags, metadata, origin)
  local modality = tags['Modality']
  if origin['RequestOrigin'] ~= 'Lua' and origin['RemoteAet'] ~= 'CXR' and (modality == 'CR' or modality == 'DX') then
    SendToModality(instanceId, 'cxr')
  end
end
